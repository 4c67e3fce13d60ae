"""from_torch of forwards that call functions and methods: the answers are those of the module itself."""

import numpy as np
import pytest

from unveil import BadInput, SourceError, as_oracle, from_torch

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Picture(nn.Module):
    """Two convolutions, whose forward is the function given."""

    def __init__(self, forward, last=4):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(last, 3)
        self.how = forward
        self.register_buffer("mean", torch.tensor([0.3, 0.6]).reshape(1, 2, 1, 1))
        nn.init.normal_(self.norm.weight)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        return self.how(self, x)


def residual(self, x):
    x = F.relu(self.norm(self.first(x)), inplace=True)
    x = F.relu(x + self.second(x))
    x = F.adaptive_avg_pool2d(x, 1)
    return self.last(x.view(x.size(0), -1))


def averaged(self, x):
    x = (x - self.mean) / 0.25
    x = F.leaky_relu(self.first(x), 0.2)
    return F.softmax(self.last(x.mean(dim=(2, 3))), dim=-1)


def pooled(self, x):
    x = F.max_pool2d(torch.relu(self.first(x)), 2)
    x = F.dropout(F.avg_pool2d(self.second(x), 3, 1, 1, False, False), 0.5, training=self.training)
    return self.last(x.reshape(x.shape[0], x.shape[1] * 9).clamp(min=0))


def moved(self, x):
    x = self.first(x).permute(0, 2, 3, 1).transpose(1, 2).contiguous()
    x = torch.flatten(x[:, 1:4, ::2], start_dim=1).unsqueeze(1).squeeze(1)
    return -2.0 * self.last(x.clamp(-1, 1)) + 1


def adaptive(self, x):
    return self.last(F.elu(F.adaptive_avg_pool2d(self.first(x), (4, 5))).flatten(1))


@pytest.mark.parametrize(("forward", "last"), [(residual, 4), (averaged, 4), (pooled, 36), (moved, 36), (adaptive, 80)])
def test_a_forward_of_functions_is_the_network_it_computes(forward, last, seed):
    torch.manual_seed(seed)
    module = Picture(forward, last).double().eval()
    network = from_torch(module, (2, 6, 6))
    x = 2 * np.random.default_rng(seed).standard_normal((20, 72))
    with torch.no_grad():
        expected = module(torch.from_numpy(x).reshape(-1, 2, 6, 6)).numpy()
    np.testing.assert_allclose(network(x), expected, atol=1e-11)


def test_sequences_are_convolved_and_pooled(seed):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv1d(4, 6, 3, stride=1, padding=2, dilation=2, groups=2), nn.BatchNorm1d(6), nn.ReLU(),
        nn.MaxPool1d(3, 2, 1), nn.Dropout1d(), nn.Flatten(), nn.Linear(24, 3),
    ).double().eval()  # fmt: skip
    x = np.random.default_rng(seed).standard_normal((20, 32))
    with torch.no_grad():
        expected = module(torch.from_numpy(x).reshape(-1, 4, 8)).numpy()
    np.testing.assert_allclose(from_torch(module, (4, 8))(x), expected, atol=1e-11)


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda self, x: F.dropout(self.last(self.first(x).mean((2, 3))), 0.5), "training=self.training"),
        (lambda self, x: F.log_softmax(self.last(self.first(x).mean((2, 3))), 1), "leave it off"),
        (lambda self, x: self.last((self.first(x) * self.second(self.first(x))).mean((2, 3))), "depend on the input"),
        (lambda self, x: self.last(self.first(x).mean((2, 3))).mean(0, keepdim=True).expand(3, 3), "over the batch"),
    ],
)
def test_what_cannot_be_represented_is_refused_in_words(forward, told):
    with pytest.raises((BadInput, SourceError), match=told):
        from_torch(Picture(forward), (2, 6, 6))


def test_what_torch_saved_is_told_apart_and_what_to_do_with_it(tmp_path) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    torch.save({"model": net.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    torch.save(net, tmp_path / "whole.pt")
    for name, what in (("weights", "weights, and not"), ("checkpoint", "weights, and not"), ("whole", "whole module")):
        with pytest.raises(SourceError, match=f"holds .*{what}.*--module FILE.PY:NAME") as told:
            as_oracle(str(tmp_path / f"{name}.pt"), 4)
        assert "corrupted" not in str(told.value)
    x = np.random.default_rng(0).standard_normal((3, 4))
    answers = as_oracle(str(tmp_path / "weights.pt"), 4, module=nn.Sequential(*net))(x)
    np.testing.assert_allclose(answers, net(torch.tensor(x, dtype=torch.float32)).detach().numpy(), rtol=1e-5)
