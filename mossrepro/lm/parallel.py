"""The split model on many devices: tensor parallelism within a group, sharded data parallelism (FSDP2) between groups.

In a group of `tensor_parallel` devices each has some of every layer's heads and hidden units, and the partial results
are summed, twice a layer (arXiv 1909.08053). Over `data_parallel` devices every weight is sharded, and gathered when
its layer is run. Tensor parallelism does not split embeddings, output heads and norms.
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from mossrepro.lm.ears import GatedLinear
from mossrepro.lm.lora import LoRALinear
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.utils.errors import ConfigError

_OUT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_IN = ("self_attn.o_proj", "mlp.down_proj")
_PER_HEAD = ("self_attn.q_norm", "self_attn.k_norm")  # each device normalises its own heads; all share one weight


def shard(model: LayerSplitLM, mesh: DeviceMesh) -> None:
    """Distribute a model over a mesh of dimensions "data_parallel" and "tensor_parallel"; a second call does nothing.

    ConfigError where heads cannot be divided evenly, or for LoRA or ears with tensor parallelism.
    """
    if mesh.size() == 1 or isinstance(model, FSDPModule):
        return
    along, across = mesh["data_parallel"], mesh["tensor_parallel"]
    blocks = model.blocks()
    if across.size() > 1:
        _check(model, across.size())
        for block in blocks:
            plan = {**dict.fromkeys(_OUT, ColwiseParallel()), **dict.fromkeys(_IN, RowwiseParallel())}
            if model.config.qk_norm:
                plan |= dict.fromkeys(_PER_HEAD, SequenceParallel(sequence_dim=2, use_local_output=True))
            parallelize_module(block, across, plan)
    for block in blocks:
        fully_shard(block, mesh=along)
    fully_shard(model, mesh=along)
    register_fsdp_forward_method(model, "recite")  # another way in (`mouth_task.py`), which gathers weights too


def check_even(config: LMConfig, size: int) -> None:
    """ConfigError where the layers of a model cannot be split into `size` equal parts."""
    for name in ("heads", "kv_heads", "ffn_dim"):
        if getattr(config, name) % size:
            raise ConfigError(f"tensor_parallel_size={size}: {getattr(config, name)} {name} cannot be dealt out evenly")


def _check(model: LayerSplitLM, size: int) -> None:
    check_even(model.config, size)
    if any(isinstance(part, LoRALinear | GatedLinear) for part in model.modules()):
        raise ConfigError(f"tensor_parallel_size={size}: low-rank changes are not cut; use 1")


def is_cut_across(module: nn.Module) -> bool:
    """Whether a model is tensor parallel, so that its parameters lie on meshes of different shapes."""
    return len({getattr(p, "device_mesh", None) for p in module.parameters()}) > 1
