"""Distillation from a frozen encoder that the user gives, of any architecture and dimension.

The student's cosines between the images of a batch are made those of the teacher, as distributions
("Relational Knowledge Distillation", arXiv:1904.05068, in the form of SEED, arXiv:2101.04731, with the
batch in place of a queue), and a projection of its embeddings is drawn towards the teacher's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.config import ViewConfig
from trainer.distributed import gather, gather_detached, mean
from trainer.heads import projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views
from trainer.views import resize
from vicinal.encoder import Encoder
from vicinal.errors import InvalidConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of distillation."""

    teacher: str = ""
    """Directory of an encoder artifact, such as ``workspace/encoders/000001``; required."""
    hidden: int = 512
    """Width of the projector."""
    temperature: float = 0.1
    """Divides the cosines between images."""
    relations: float = 1.0
    """Weight of the relations; the projection has weight 1."""


class Distillation(Method):
    """Learns the geometry of a frozen teacher's embeddings."""

    options: Options
    options_type: ClassVar[type] = Options
    views: ClassVar[ViewConfig] = ViewConfig(crop_scale=(0.5, 1.0))
    needs_plain: ClassVar[bool] = True

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        if not options.teacher:
            raise InvalidConfigError(
                "distillation needs a teacher: --set method_options.teacher=DIRECTORY of an encoder", field="teacher"
            )
        # Outside the module's state: a frozen teacher is not saved again with every checkpoint.
        self._teacher = [Encoder.load(Path(options.teacher))]
        self.projector = projector((context.dimension, options.hidden, self._teacher[0].dimension))

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch."""
        assert views.plain_BCHW is not None
        shape = (len(views.full), len(views.rows_B))
        y_MD = backbone(torch.cat(views.full))
        z_MD = self.projector(y_MD)
        with torch.autocast(z_MD.device.type, enabled=False):
            target_BD = self._embed(views.plain_BCHW)
            z_VBD = z_MD.float().unflatten(0, shape)
            terms = [distance_and_relations(z_BD, target_BD, self.options.temperature) for z_BD in z_VBD]
            distance = mean(torch.stack([pair[0] for pair in terms]).mean())
            relations = mean(torch.stack([pair[1] for pair in terms]).mean())
        total = distance + self.options.relations * relations
        y_VBD = y_MD.detach().float().unflatten(0, shape)
        loss = LossTerms(total=total, terms={"distance": distance, "relations": relations})
        return StepOutput(loss=loss, embeddings=(y_VBD[0], y_VBD[1]))

    @torch.no_grad()
    def _embed(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        teacher = self._teacher[0]
        teacher.model.to(x_BCHW.device)
        wanted = teacher.preprocessing
        x_BCHW = resize(x_BCHW, wanted.height)
        if x_BCHW.shape[1] != wanted.channels:
            x_BCHW = x_BCHW.mean(dim=1, keepdim=True).expand(-1, wanted.channels, -1, -1)
        y_BD: torch.Tensor = teacher.model(wanted.normalize(x_BCHW * 255.0)).float()
        return functional.normalize(y_BD, dim=1)


METHOD = Distillation


def distance_and_relations(
    z_BD: torch.Tensor, target_BD: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns 1 - cosine to the targets, and the cross-entropy of relations (arXiv:2101.04731, eq. 3).

    Args:
        z_BD: projections of the student.
        target_BD: unit embeddings of the teacher; no gradient flows into them.
        temperature: divides the cosines between images.
    """
    z_BD = functional.normalize(z_BD, dim=1)
    distance = 1.0 - (z_BD * target_BD).sum(dim=1).mean()
    everyone_ND, teachers_ND = gather(z_BD), gather_detached(target_BD)
    student_NN = everyone_ND @ teachers_ND.t() / temperature
    teacher_NN = (teachers_ND @ teachers_ND.t() / temperature).softmax(dim=1)
    relations = -(teacher_NN.detach() * functional.log_softmax(student_NN, dim=1)).sum(dim=1).mean()
    return distance, relations
