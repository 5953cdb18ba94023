"""Which tests are to kill the mutants of a module: those of its name, and these."""

from pathlib import Path

SOURCES = ("app/services", "workers", "models/core", "models/data")
# where a module's tests have another name: files below tests/
TESTS = {
    "app/services/changes": "app/test_event_streams app/test_events",
    "app/services/chores": "workers/test_cleaner app/test_retention",
    "app/services/comparisons": "web/test_compare",
    "app/services/derived": "app/test_jobs app/test_tenants",
    "app/services/differences": "app/test_intervals web/test_compare",
    "app/services/gauges": "app/test_health",
    "app/services/growth": "app/test_retention",
    "app/services/jobs": "app/test_jobs app/test_quotas app/test_holds",
    "app/services/keys": "app/test_keys app/test_tenants faults/test_clocks",
    "app/services/lifecycle": "workers/test_lifecycle app/test_jobs",
    "app/services/logins": "web/test_login",
    "app/services/logs": "app/test_artifacts",
    "app/services/outbox": "app/test_webhooks",
    "app/services/outcome": "workers/test_lifecycle",
    "app/services/paging": "app/test_jobs app/test_metrics",
    "app/services/pepper": "app/test_keys",
    "app/services/pipelines": "app/test_dependencies",
    "app/services/promised": "app/test_dependencies",
    "app/services/queues": "app/test_jobs",
    "app/services/resolve": "app/test_jobs app/test_needs app/test_holds",
    "app/services/retries": "app/test_jobs app/test_old_state",
    "app/services/specs": "app/test_dependencies app/test_jobs app/test_sweeps",
    "app/services/storage_keys": "app/test_artifacts app/test_collection",
    "app/services/sweep_plan": "app/test_sweeps",
    "app/services/sweep_report": "app/test_sweeps",
    "app/services/sweep_results": "app/test_sweeps",
    "app/services/sweep_stop": "app/test_sweeps",
    "app/services/uploads": "app/test_datasets",
    "app/services/validation_errors": "app/test_problems app/test_bounds",
    "app/services/waiting": "app/test_health web/test_workers",
    "app/services/workers": "app/test_health workers/test_cleaner app/test_jobs",
    "models/core/compiled": "models/core/test_core_device",
    "models/core/confine": "workers/test_containment",
    "models/core/errors": "models/test_divergence",
    "models/core/finite": "models/test_divergence",
    "models/core/json_text": "models/data/test_data_headers",
    "models/core/needs": "app/test_needs",
    "models/core/onnx_file": "models/lcw/test_lcw_train",
    "models/core/onnx_net": "models/lcw/test_lcw_train",
    "models/core/program": "models/selective_convolution/test_selective_train",
    "models/core/ranks": "models/core/test_core_stopping models/freetickets/test_freetickets_ranks",
    "models/core/run": "models/core/test_core_stopping models/supervised/test_supervised_loop",
    "models/core/spec": (
        "app/test_needs app/test_problems models/data/test_data_images "
        "models/supervised/test_supervised_loop"
    ),
    "models/data/archives": "models/data/test_data_headers models/data/test_data_files",
    "models/data/ascii_grid": "models/terrain/test_terrain_rasters models/data/test_data_elevation",
    "models/data/builtin": "models/data/test_data_samples app/test_datasets",
    "models/data/columns": "models/data/test_data_series models/data/test_data_imports",
    "models/data/elevation": "models/data/test_data_elevation models/terrain/test_terrain_rasters",
    "models/data/field_axes": "models/data/test_data_fields",
    "models/data/field_units": "models/data/test_data_fields",
    "models/data/heights": "models/terrain/test_terrain_rasters models/data/test_data_elevation",
    "models/data/images": "models/data/test_data_images models/supervised/test_supervised_loop",
    "models/data/marks": "models/data/test_data_series",
    "models/data/programs": "models/data/test_data_headers models/saliency/test_saliency_user_nets",
    "models/data/sets": "models/data/test_data_images models/data/test_data_fetch",
    "models/data/spec": "models/data/test_data_images",
    "models/data/synthetic": "models/data/test_data_images models/supervised/test_supervised_loop",
}
FOLDERS = {  # tests of a module that is not named above
    "app/services": "app/test_{0}",
    "workers": "workers/test_execute workers/test_recorder workers/test_runner "
    "workers/test_containment workers/test_cleaner",
    "models/core": "models/core/test_core_{0}",
    "models/data": "models/data/test_data_{0} models/data/test_data_files "
    "models/data/test_data_imports models/data/test_data_headers",
}


def modules(root: Path) -> list[str]:
    """Paths of the modules that are mutated, relative to the checkout; no __init__."""
    files = (file for source in SOURCES for file in sorted((root / source).rglob("*.py")))
    paths = [file.relative_to(root).as_posix() for file in files if file.name != "__init__.py"]
    return [path for path in paths if not path.endswith("__main__.py")]


def tests_of(path: str) -> list[str]:
    """Paths of the test files of a module.

    Raises:
        ValueError: if there are none: pytest would run all tests then.
    """
    module = path.removesuffix(".py")
    folder, _, stem = module.rpartition("/")
    named = f"workers/test_{stem}" if folder == "workers" else ""
    names = TESTS.get(module) or FOLDERS[folder].format(stem)
    ordered = dict.fromkeys(f"{named} {names}".split())
    paths = [f"tests/{name}.py" for name in ordered if Path("tests", f"{name}.py").exists()]
    if not paths:
        raise ValueError(f"no tests of {path}; name them in tests/mutation/cover.py")
    return paths
