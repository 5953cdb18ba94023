"""The NVIDIA GPUs of this machine."""


def find_gpus() -> list[str]:
    """Names of this machine's NVIDIA GPUs; none without the driver or the package for it."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    names = [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    pynvml.nvmlShutdown()
    return names
