"""On a GPU: graphs, eager boxes and library nets against the plain net."""

import pytest
import torch

from models.nets import library as net_library
from models.saliency.engine.trace import trace
from models.saliency.methods.case import Case
from models.saliency.methods.registry import compute_map
from models.saliency.net.scores import Scorer
from models.saliency.spec.masks import Occlusion
from models.saliency.spec.net import NamedNet
from tests.models.saliency.saliency_nets import conv_net, noise

pytestmark = pytest.mark.gpu
PART = Occlusion(id="occlusion", window=32, stride=16)


def both(net, side):
    """The same case with the plain net and with its plan."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    net = net.cuda().eval()
    x = noise(3, side, side, dtype=torch.float32).cuda()
    cases = []
    for plan in (None, trace(net, (3, side, side))):
        scorer = Scorer(net, "prob", plan=plan)
        targets = torch.tensor([1, 0], device="cuda")
        full = scorer.scores(scorer.outputs(x[None]))[0, targets]
        cases.append(Case(x, scorer, targets, full, 0, 64))
    return cases


@torch.no_grad()
def test_the_graph_of_a_second_map_gives_what_the_plain_net_gives():
    """Property 8 across plain net, eager boxes and the recorded graph."""
    plain, fast = both(conv_net(), 64)
    b = torch.zeros_like(plain.x)
    wanted = compute_map(PART, plain, b)
    for _ in range(3):
        torch.testing.assert_close(compute_map(PART, fast, b), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("library", "name"),
    [("timm", "resnet18"), ("timm", "efficientnet_lite0"), ("torchvision", "densenet121")],
)
@torch.no_grad()
def test_nets_of_libraries_by_name(library, name):
    """Built by the library itself: classes counted, traced, maps equal to the plain net's."""
    pytest.importorskip("timm" if library == "timm" else "torchvision")
    part = NamedNet(library=library, name=name, weights="random")
    net = net_library.named(part, 7, pretrained=False)
    plain, fast = both(net, 96)
    b = torch.zeros_like(plain.x)
    assert fast.scorer.outputs(fast.x[None]).shape == (1, 7)
    torch.testing.assert_close(
        compute_map(PART, fast, b), compute_map(PART, plain, b), atol=1e-5, rtol=0
    )
