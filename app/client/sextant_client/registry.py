"""The calls about registered models: versions, aliases."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from sextant_client.asking import Answer, Stream, create, json_of, nothing, pages
from sextant_client.flow import Flow, Request


class RegistryCalls(ABC):
    """Calls that both clients inherit; each may raise :class:`sextant_client.ApiError`."""

    @abstractmethod
    def _run(self, flow: Flow[Any]) -> Answer:
        """Carry out a flow and give its result."""

    @abstractmethod
    def _iterate(self, flow: Flow[None]) -> Stream:
        """Carry out a flow and give what it emits, one by one."""

    def create_model(
        self, name: str, *, description: str | None = None, metadata: Mapping[str, str] = {}
    ) -> Answer:
        """A model without versions; :meth:`register` makes one where there is none."""
        body = {"name": name, "description": description, "metadata": dict(metadata)}
        return self._run(create("/v1/models", body))

    def models(self, limit: int | None = None) -> Stream:
        """Models, newest first."""
        return self._iterate(pages("/v1/models", {}, limit))

    def get_model(self, name: str) -> Answer:
        """The model with ``latest_version`` and its ``aliases``."""
        return self._run(json_of(Request("GET", f"/v1/models/{name}")))

    def edit_model(self, name: str, **changes: Any) -> Answer:
        """Change ``description`` or ``metadata`` of a model."""
        return self._run(json_of(Request("PATCH", f"/v1/models/{name}", json=changes)))

    def delete_model(self, name: str) -> Answer:
        """Delete a model with its versions and aliases; jobs and files stay."""
        return self._run(nothing(Request("DELETE", f"/v1/models/{name}")))

    def register(
        self,
        name: str,
        job_id: str,
        artifact: str = "weights.safetensors",
        *,
        description: str | None = None,
        aliases: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> Answer:
        """Make a file of a final job the next version of a model.

        Args:
            name: of the model, which is made if there is none.
            job_id: of the job.
            artifact: its weights or one of its checkpoints.
            description: for people.
            aliases: are moved to the new version.
            idempotency_key: as for :meth:`submit`.

        Returns:
            The version object; ``reference`` is what specs call it.
        """
        body = {
            "job": job_id,
            "artifact": artifact,
            "description": description,
            "aliases": list(aliases),
        }
        return self._run(create(f"/v1/models/{name}/versions", body, idempotency_key))

    def versions(self, name: str, limit: int | None = None) -> Stream:
        """Versions of a model, newest first."""
        return self._iterate(pages(f"/v1/models/{name}/versions", {}, limit))

    def get_version(self, name: str, version: int) -> Answer:
        """The version object."""
        return self._run(json_of(Request("GET", f"/v1/models/{name}/versions/{version}")))

    def delete_version(self, name: str, version: int) -> Answer:
        """Delete a version to which no alias points; its file stays with its job."""
        return self._run(nothing(Request("DELETE", f"/v1/models/{name}/versions/{version}")))

    def move_alias(
        self, name: str, alias: str, version: int, *, expected_version: int | None = None
    ) -> Answer:
        """Let an alias point at a version.

        Args:
            name: of the model.
            alias: such as ``production``.
            version: number of a version.
            expected_version: where it must point now, 0 for nowhere; None: wherever it does.

        Returns:
            The model object.
        """
        body = {"version": version, "expected_version": expected_version}
        path = f"/v1/models/{name}/aliases/{alias}"
        return self._run(json_of(Request("PUT", path, json=body)))

    def delete_alias(self, name: str, alias: str) -> Answer:
        """Delete an alias; the version stays."""
        return self._run(nothing(Request("DELETE", f"/v1/models/{name}/aliases/{alias}")))

    # -- predictions -------------------------------------------------------------------------

    def predict(self, model: str, images: Sequence[bytes], *, top: int = 5) -> Answer:
        """Classify pictures by a registered classifier.

        Args:
            model: ``NAME@ALIAS`` or ``NAME/3``.
            images: 1 to 64 picture files, 8 MiB together in base64.
            top: likeliest classes to name.

        Returns:
            An object with ``predictions``, for each picture the likeliest classes with their
            probabilities; or, where no net that is loaded answers in time, the job that does it
            (its ``object`` is ``job``).
        """
        name, number = model.partition("/")[::2]
        path = f"/v1/models/{name}{f'/versions/{number}' if number else ''}/predict"
        body = {"images": [base64.b64encode(image).decode() for image in images]}
        return self._run(json_of(Request("POST", path, {"top": top}, json=body, read_s=330.0)))
