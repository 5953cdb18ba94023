"""The calls about registered models: versions, aliases."""

from __future__ import annotations  # so that help() names types in short

import base64
from collections.abc import Mapping, Sequence
from typing import Unpack

from sextant_client.answers import JobRead, ModelRead, ModelVersionRead, PredictionRead
from sextant_client.asking import create, json_of, nothing, pages
from sextant_client.calling import Call, Stream
from sextant_client.flow import Emits, Flow, Request
from sextant_client.requests import ModelPatch


class RegistryCalls:
    """Calls that both clients inherit; each may raise :class:`sextant_client.ApiError`."""

    @Call
    def create_model(
        self, name: str, *, description: str | None = None, metadata: Mapping[str, str] = {}
    ) -> Flow[ModelRead]:
        """A model without versions; :meth:`register` makes one where there is none."""
        body = {"name": name, "description": description, "metadata": dict(metadata)}
        return create("/v1/models", body)

    @Stream
    def models(self, limit: int | None = None) -> Emits[ModelRead]:
        """Models, newest first."""
        return pages("/v1/models", {}, limit)

    @Call
    def get_model(self, name: str) -> Flow[ModelRead]:
        """The model with ``latest_version`` and its ``aliases``."""
        return json_of(Request("GET", f"/v1/models/{name}"))

    @Call
    def edit_model(self, name: str, **changes: Unpack[ModelPatch]) -> Flow[ModelRead]:
        """Change ``description`` or ``metadata`` of a model."""
        return json_of(Request("PATCH", f"/v1/models/{name}", json=changes))

    @Call
    def delete_model(self, name: str) -> Flow[None]:
        """Delete a model with its versions and aliases; jobs and files stay."""
        return nothing(Request("DELETE", f"/v1/models/{name}"))

    @Call
    def register(
        self,
        name: str,
        job_id: str,
        artifact: str = "weights.safetensors",
        *,
        description: str | None = None,
        aliases: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> Flow[ModelVersionRead]:
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
        return create(f"/v1/models/{name}/versions", body, idempotency_key)

    @Stream
    def versions(self, name: str, limit: int | None = None) -> Emits[ModelVersionRead]:
        """Versions of a model, newest first."""
        return pages(f"/v1/models/{name}/versions", {}, limit)

    @Call
    def get_version(self, name: str, version: int) -> Flow[ModelVersionRead]:
        """The version object."""
        return json_of(Request("GET", f"/v1/models/{name}/versions/{version}"))

    @Call
    def delete_version(self, name: str, version: int) -> Flow[None]:
        """Delete a version to which no alias points; its file stays with its job."""
        return nothing(Request("DELETE", f"/v1/models/{name}/versions/{version}"))

    @Call
    def move_alias(
        self, name: str, alias: str, version: int, *, expected_version: int | None = None
    ) -> Flow[ModelRead]:
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
        return json_of(Request("PUT", path, json=body))

    @Call
    def delete_alias(self, name: str, alias: str) -> Flow[None]:
        """Delete an alias; the version stays."""
        return nothing(Request("DELETE", f"/v1/models/{name}/aliases/{alias}"))

    # -- predictions -------------------------------------------------------------------------

    @Call
    def predict(
        self,
        model: str,
        images: Sequence[bytes],
        *,
        top: int = 5,
        idempotency_key: str | None = None,
    ) -> Flow[PredictionRead | JobRead]:
        """Classify pictures by a registered classifier.

        Args:
            model: ``NAME@ALIAS`` or ``NAME/3``.
            images: 1 to 64 picture files, 8 MiB together in base64.
            top: likeliest classes to name.
            idempotency_key: makes several calls one question, answered once; kept for a day.

        Returns:
            An object with ``predictions``, for each picture the likeliest classes with their
            probabilities; or, where no net that is loaded answers in time, the job that does it
            (its ``object`` is ``job``).
        """
        name, number = model.partition("/")[::2]
        path = f"/v1/models/{name}{f'/versions/{number}' if number else ''}/predict"
        body = {"images": [base64.b64encode(image).decode() for image in images]}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return json_of(Request("POST", path, {"top": top}, body, headers, read_s=330.0))
