"""The net under study: loading, its images, its scores, its space of inputs."""
