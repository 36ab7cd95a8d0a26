"""A pickled module gives its tensors and runs nothing: neither the classes that it names, nor code that someone put in."""

import collections
import importlib
import io
import os
import pickle
import random
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import ml_dtypes
import pytest
import torch
from tiny_clips import draw
from torch import nn

from nan_merge.checkpoints import safe_unpickler
from nan_merge.checkpoints.pickles import pickled_model, pickled_tensors
from nan_merge.core.errors import UserError

FORMATS = {"zip": {}, "before 1.6": {"_use_new_zipfile_serialization": False}}
FOREIGN = ("src", "src.modeling", "gone", "gone.model")


@pytest.fixture(params=FORMATS)
def how(request):
    return FORMATS[request.param]


def saved(file, content, **how):
    torch.save(content, file, **how)
    return file


def arrays(tensors):
    return {name: tensor.block(0, tensor.size).reshape(tensor.shape) for name, tensor in tensors.items()}


def equal(tensors, state):
    """Compare what was read with a state dict, in names, order, types and bits."""
    found = arrays(tensors)
    assert list(found) == list(state)
    for name, value in state.items():
        value = value.detach()
        plain = value.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if value.dtype is torch.bfloat16 else value.numpy()
        assert found[name].dtype == plain.dtype and found[name].shape == plain.shape, name
        assert found[name].tobytes() == plain.tobytes(), name
    return True


@pytest.fixture
def image_encoder(monkeypatch):
    """A module as collection A has it: of classes that were there when it was saved and are nowhere now."""
    import open_clip.transform
    from torchvision import transforms

    for name in FOREIGN:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    class ImageEncoder(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.train_preprocess = open_clip.transform.image_transform(32, is_train=True)
            self.val_preprocess = transforms.Compose([transforms.ToTensor()])
            self.cache_dir = Path("/gone")

    class VisualTransformer(type(draw(0).visual)):
        pass

    for kind, home in ((ImageEncoder, "src.modeling"), (VisualTransformer, "gone.model")):
        kind.__module__, kind.__qualname__ = home, kind.__name__
        setattr(sys.modules[home], kind.__name__, kind)
    model = draw(0)
    del model.transformer
    model.visual.__class__ = VisualTransformer
    return ImageEncoder(model)


def forget():
    for name in FOREIGN:
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_module_of_classes_that_are_gone_gives_its_tensors(how, image_encoder, tmp_path):
    file = saved(tmp_path / "finetuned.pt", image_encoder, **how)
    forget()
    with pytest.raises((ImportError, AttributeError)):
        torch.load(file, weights_only=False)
    tensors, kinds = pickled_model(file)
    assert equal(tensors, image_encoder.state_dict())
    assert kinds[""] == "ImageEncoder" and kinds["model.visual"] == "VisualTransformer"
    assert kinds["model.visual.transformer.resblocks.1.mlp.gelu"] == "QuickGELU"
    assert not set(FOREIGN) & sys.modules.keys()


def test_a_module_of_pythons_own_pickle_gives_its_tensors(image_encoder, tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(image_encoder))
    forget()
    assert equal(pickled_model(tmp_path / "a.pt")[0], image_encoder.state_dict())


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol_is_read(protocol, tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Identity()))
    file = saved(tmp_path / "a.pt", model, pickle_protocol=protocol)
    assert equal(pickled_model(file)[0], model.state_dict())


def test_a_state_dict_is_what_torch_reads(how, tmp_path):
    w = torch.arange(12.0).reshape(3, 4)
    state = {"w": w, "t": w.t(), "half": w.bfloat16().t(), "part": w[1:, 1:3], "p": nn.Parameter(w), "scalar": torch.tensor(2.5)}
    state |= {"wide": w[:1].expand(5, 4), "empty": torch.ones(0, 4), "same": w, "ids": torch.arange(5), "mask": w > 3}
    assert equal(pickled_model(saved(tmp_path / "a.pt", collections.OrderedDict(state), **how))[0], state)
    assert equal(pickled_model(saved(tmp_path / "b.pt", {"epoch": 3, "state_dict": state}, **how))[0], state)


def test_only_lasting_buffers_count(how, tmp_path):
    model = nn.Linear(2, 2, bias=False)
    model.register_buffer("kept", torch.ones(2))
    model.register_buffer("passing", torch.ones(3), persistent=False)
    model.register_parameter("none", None)
    assert equal(pickled_model(saved(tmp_path / "a.pt", nn.DataParallel(model), **how))[0], nn.DataParallel(model).state_dict())


def test_numbers_are_mapped_and_not_held(how, tmp_path):
    file = saved(tmp_path / "a.pt", nn.Linear(4096, 4096, bias=False), **how)  # 64 MiB

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    before = anonymous()
    tensor = pickled_model(file)[0]["weight"]
    assert sum(len(tensor.block(start, start + (1 << 16))) for start in range(0, tensor.size, 1 << 16)) == 1 << 24
    assert anonymous() - before < 1 << 23


# ---- code, which is not run -----------------------------------------------------------------------------------------


class Code:
    """What unpickles by a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def payloads(marker):
    """Return calls that would make the file `marker`."""
    import functools
    import operator

    line, path = f"open({str(marker)!r}, 'w')", str(marker)
    return {
        "os.system": Code(os.system, (f"touch {path}",)),
        "eval": Code(eval, (line,)),
        "exec": Code(exec, (line,)),
        "open": Code(open, (path, "w")),
        "subprocess.Popen": Code(subprocess.Popen, (["touch", path],)),
        "partial": Code(functools.reduce, (operator.call, [Code(functools.partial, (os.system, f"touch {path}"))])),
        "attrgetter": Code(operator.call, (Code(operator.attrgetter, ("system",)), Code(importlib.import_module, ("os",)))),
        "import_module": Code(importlib.import_module, ("this",)),
        "torch.hub.load": Code(torch.hub.load, ("/gone", "model")),
        "torch.load": Code(torch.load, (path,)),
        "pickle.loads": Code(pickle.loads, (pickle.dumps(Code(os.system, (f"touch {path}",))),)),
        "Path.touch": Code(Path.touch, (Path(path),)),
        "a rebuild of a call": Code(torch._tensor._rebuild_from_type_v2, (os.system, torch.Tensor, (f"touch {path}",), {})),
        "a storage of a call": Code(torch.storage._load_from_bytes, (pickle.dumps(Code(os.system, (f"touch {path}",))),)),
        "a parameter of a call": Code(torch._utils._rebuild_parameter, (Code(os.system, (f"touch {path}",)), True, {})),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", payloads("x"))
def test_code_is_not_run(name, how, tmp_path):
    marker = tmp_path / "ran"
    model = nn.Linear(2, 3)
    model.extra = payloads(marker)[name]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    sys.modules.pop("this", None)
    tensors, _ = pickled_model(saved(tmp_path / "module.pt", model, **how))
    assert equal(tensors, state)
    for where, content in {"dict": {"w": torch.ones(2), "x": model.extra}, "bare": model.extra}.items():
        with pytest.raises(UserError, match=rf"{where}.pt: .*(is an object of type|without tensors|cannot be read)"):
            pickled_model(saved(tmp_path / f"{where}.pt", content, **how))
    assert not marker.exists() and "this" not in sys.modules


@pytest.mark.parametrize("place", ["_parameters", "_buffers", "_modules"])
def test_code_in_the_place_of_a_tensor_is_named(place, tmp_path):
    model = nn.Linear(2, 3)
    getattr(model, place)["bad"] = Code(os.system, (f"touch {tmp_path / 'ran'}",))
    if place == "_modules":  # a placeholder without tensors is a submodule without tensors
        assert list(pickled_model(saved(tmp_path / "a.pt", model))[0]) == ["weight", "bias"]
    else:
        with pytest.raises(
            UserError, match=r"a.pt: 'bad' is an object of type system, whose code was not run; expected only tensors"
        ):
            pickled_model(saved(tmp_path / "a.pt", model))
    assert not (tmp_path / "ran").exists()


def plain(file, *lines):
    """Write a pickle opcode by opcode."""
    file.write_bytes(b"".join(lines) + b".")
    return file


ATTACKS = {
    "a state for a function of ours": b"ctorch._utils\n_rebuild_tensor_v2\nN}S'_make'\ncos\nsystem\ns\x86b",
    "a state for a container": b"ccollections\nOrderedDict\nN}S'__call__'\ncos\nsystem\ns\x86b",
    "a state for a class": b"csrc\nModel\nN}S'__init__'\ncos\nsystem\ns\x86b",
    "a method of what was made": b"csrc\nModel\n(tR}S'append'\ncos\nsystem\nsb(S'touch ran'\ne",
    "the way out of a class": b"\x80\x04\x8c\x08builtins\x8c\x12object.__reduce_ex__\x93)R",
    "a name with a way": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.getcwd\x93S'touch ran'\n\x85R",
    "an extension": b"\x80\x02\x82\x01",
    "a module inside itself": b"csrc\nM\n(tRp0\n}S'_modules'\n}S'x'\ng0\nssb",
    "a memo of four billion": b"\x80\x02]r\xff\xff\xff\xff",
    "a tuple as a name": b"(I1\nI2\nt\x93",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_by_hand_is_a_user_error(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {name: each._make for name, each in safe_unpickler.REBUILDS.items()}
    with pytest.raises(UserError, match=r"a.pt: "):
        pickled_model(plain(tmp_path / "a.pt", ATTACKS[attack]))
    assert {name: each._make for name, each in safe_unpickler.REBUILDS.items()} == before
    assert os.listdir(tmp_path) == ["a.pt"]


def test_the_unpickler_finds_nothing_that_acts():
    reader = safe_unpickler.Unpickler(io.BytesIO(), {})
    names = [("os", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("torch.nn", "Linear")]
    names += [("nan_merge.core.files", "UserError"), ("torch._utils", "_rebuild_qtensor"), ("numpy", "frombuffer"), ("", "")]
    for module, name in names:
        found = reader.find_class(module, name)
        assert issubclass(found, safe_unpickler.Placeholder) and isinstance(found("x", y=1)(), safe_unpickler.Placeholder)


# ---- broken files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_named(how, share, tmp_path):
    file = saved(tmp_path / "a.pt", nn.Linear(30, 40), **how)
    with open(file, "r+b") as stream:
        stream.truncate(int(share * file.stat().st_size))
    with pytest.raises(UserError, match=r"a.pt: cannot be read \(.*\); it is truncated, .*; fetch it again"):
        pickled_model(file)


def test_three_hundred_mutations_raise_nothing_but_user_errors(how, tmp_path):
    rng, opened = random.Random(0), 0
    good = saved(tmp_path / "good", nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), **how).read_bytes()
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.choice([0, 1, 4])] = rng.randbytes(rng.choice([0, 1, 4]))
        (tmp_path / "a.pt").write_bytes(data)
        try:
            arrays(pickled_model(tmp_path / "a.pt")[0])
            opened += 1
        except UserError as error:
            assert "a.pt" in str(error)
    assert 0 < opened < 300, "some mutations break the file"


def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path):
    model = {"w": torch.ones(4)}
    data = bytearray(saved(tmp_path / "a.pt", model, _use_new_zipfile_serialization=False).read_bytes())
    at = data.index(b"K\x04\x85")  # the shape (4,)
    data[at + 1] = 9
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        pickled_model(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_programs_and_packed_archives_are_named(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a.pt: cannot be read \(it is a TorchScript program"):
        pickled_model(tmp_path / "a.pt")
    good = saved(tmp_path / "good.pt", {"w": torch.ones(2)})
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UserError, match=r"b.pt: cannot be read \(its members are compressed"):
        pickled_model(tmp_path / "b.pt")


@pytest.mark.parametrize("content", [[torch.ones(2)], 3, {}, {"model": {"w": torch.ones(2)}}, nn.Identity(), {1: torch.ones(2)}])
def test_what_is_no_model_is_named(content, tmp_path):
    with pytest.raises(UserError, match=r"a.pt: "):
        pickled_model(saved(tmp_path / "a.pt", content))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_merge_of_a_pickled_module_still_refuses_and_says_who_reads_it(image_encoder, tmp_path):
    file = saved(tmp_path / "pytorch_model.bin", image_encoder)
    forget()
    with pytest.raises(UserError, match=r"holds code \(ImageEncoder\), which was not run.*the family open_clip"):
        pickled_tensors(file)
