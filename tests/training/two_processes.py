"""What two processes do together, in one start of them, which ends with the death of one.

tests/training/test_together.py starts them and looks at what they left.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from pixmend import api, cli
from pixmend.distributed import open_group
from pixmend.training import step as step_module
from pixmend.training.data_parallel import SynchronisedBatchNorm2d
from pixmend.training.optimise import update_if_finite

os.fsync = lambda _: None  # no test cuts the power
torch.manual_seed(0)
WHOLE = torch.randn(4, 3, 5, 2).double() * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) + 10
PULL = torch.randn(4, 3, 5, 2).double()


def penalised(norm, maps, pull):
    """Return a loss of a gradient and its gradients: what a gradient penalty asks of a layer."""
    (slope,) = torch.autograd.grad((norm(maps).pow(3) * pull).sum(), maps, create_graph=True)
    loss = slope.square().sum()
    return loss, torch.autograd.grad(loss, [maps, norm.weight])


def check_batch_norm(group):
    plain = torch.nn.BatchNorm2d(3).double()
    ours = SynchronisedBatchNorm2d(torch.nn.BatchNorm2d(3).double(), group)
    whole = WHOLE.clone().requires_grad_()
    share = group.shard(len(WHOLE))
    part = WHOLE[share].clone().requires_grad_()
    torch.testing.assert_close(ours(part), plain(whole)[share])
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)
    loss, (to_maps, to_weight) = penalised(plain, whole, PULL)
    own_loss, (own_to_maps, own_to_weight) = penalised(ours, part, PULL[share])
    torch.testing.assert_close(group.mean(own_loss) * group.world, loss)
    torch.testing.assert_close(own_to_maps, to_maps[share])
    torch.testing.assert_close(group.mean(own_to_weight) * group.world, to_weight)


def check_exchanges(group):
    mine = [torch.full((2, 3), float(group.rank)), torch.full((1,), 10.0 * group.rank)]
    group.all_reduce_mean(mine)
    assert [float(tensor.mean()) for tensor in mine] == [0.5, 5.0]
    # Channels innermost, as the networks lie in memory.
    kernel = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    sent = kernel * (group.rank + 1)
    group.broadcast([sent])
    assert torch.equal(sent, kernel)
    doubled = kernel * (2 * group.rank)
    group.all_reduce_mean([doubled])
    assert torch.equal(doubled, kernel)
    assert group.any(group.rank == 1)
    assert not group.any(False)
    assert group.broadcast_object({"rank": group.rank}) == {"rank": 0}


def check_what_is_left_out(group):
    """An update is left out in both processes where loss or gradient is not finite in one."""
    for bad in ("none", "gradient", "loss"):
        weight = torch.ones(3, requires_grad=True)
        optimiser = torch.optim.Adam([weight], 0.1, fused=True)
        parts = {"gradient": torch.full((3,), 1.0 + group.rank), "loss": torch.full((2,), 1.0)}
        if bad in parts and group.rank == 1:
            parts[bad][0] = float("inf")
        weight.grad = parts["gradient"]
        loss = update_if_finite(parts["loss"], optimiser, group=group)
        assert loss.isnan().all() == (bad != "none")
        assert torch.equal(weight, torch.ones(3)) == (bad != "none")
        if bad == "none":
            assert torch.equal(weight.grad, torch.full((3,), 1.5))


def check_taken_back(rank, train):
    """Train while one process alone meets what is not finite; both must do the same about it."""
    real_step = step_module.discriminator_step

    def poisoned(state, real, *rest):  # in the second process: one step, then all until taken back
        bad = rank == 1 and (state.step == 1 or (state.step >= 5 and not state.rollbacks))
        return real_step(state, real * float("nan") if bad else real, *rest)

    def spoiled(
        state, *rest
    ):  # in the first one, which alone has a true average, before it is saved
        losses = real_step(state, *rest)
        if rank == 0 and state.step == 6 and not state.rollbacks:
            with torch.no_grad():
                next(state.ema.parameters()).fill_(float("inf"))
        return losses

    for step, back in ((poisoned, [8]), (spoiled, [4])):
        done = []
        step_module.discriminator_step = step
        train(step.__name__, done.append, steps=10)
        assert [now.step for now in done if now.event == "rolled back"] == back
        assert done[-1].event == "done"
    step_module.discriminator_step = real_step


def forbid_writing(folder):
    """Raise whenever this process opens a file of the folder to write into it."""

    def look(event, arguments):
        if event == "open" and str(arguments[0]).startswith(str(folder)):
            assert not arguments[2] & (os.O_WRONLY | os.O_RDWR), arguments[0]

    sys.addaudithook(look)


def run_verb(code, records, run, **settings):
    """Run `pixmend train` in this process, which ends with this exit code."""
    pairs = [part for key in settings for part in ("--set", f"{key}={settings[key]}")]
    sys.argv = ["pixmend", "train", records, str(run), *pairs]
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code


def check_verb(rank, records, out, settings):
    """The second process alone is asked to stop; later both are given a wrong setting."""
    real_step = step_module.discriminator_step

    def asked(state, *rest):
        if rank == 1 and state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(state, *rest)

    step_module.discriminator_step = asked
    run_verb(130, records, out / "asked", **{**settings, "steps": 100_000})
    step_module.discriminator_step = real_step
    run_verb(2, records, out / "refused", **{**settings, "batch_size": 9})


def main(images, records, out, settings, options):
    def train(data, run, on_progress=lambda now: None, **changes):
        api.train(data, out / run, settings={**settings, **changes}, on_progress=on_progress)

    def die(now):
        if rank == 0 and now.step == 5:  # the one that writes
            os.kill(os.getpid(), signal.SIGKILL)

    rank = int(os.environ["RANK"])
    if rank:
        forbid_writing(out)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        check_the_first_time(images, records, train, options, rank)
        check_verb(rank, records, out, settings)
        train(records, "restarted", die, steps=7)
    train(records, "restarted", steps=7)
    train(records, "killed", die, steps=100_000)


def check_the_first_time(images, records, train, options, rank):
    with open_group() as group:
        assert group.world == 2
        assert group.rank == rank
        check_batch_norm(group)
        check_exchanges(group)
        check_what_is_left_out(group)
    short = {"steps": 6, "log_every": 1}
    train(records, "default", **short)
    train(records, "options", **short, **options)
    inpainting = {
        **short,
        "inpainter_filters": 8,
        "inpainter_batch": 8,
        "retrieval_images": 12,
        "horizontal_flip": True,
        "diffaugment": "colour,cutout",
        "r1_gamma": 1.0,
    }
    watched = {"monitor": True, "checkpoint_every": 6}
    train(records, "inpainter", r1_every=2, **inpainting, **watched)
    train(records, "grown", **short)
    train(records, "whole", steps=7)
    train(records, "cut", steps=3)
    train(records, "cut", steps=7)
    train(images, "packed", steps=1)
    train(records, "apart", steps=2, sync_batchnorm=False)
    check_taken_back(rank, partial(train, records))


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(json.loads, sys.argv[4:]))
