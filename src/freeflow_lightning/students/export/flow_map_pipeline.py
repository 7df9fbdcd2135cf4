"""A diffusers pipeline for flow maps of pictures, with or without classes. Needs nothing but
diffusers and torch.
"""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class FlowMapPipeline(DiffusionPipeline):
    """Noise to pictures in one evaluation of the network, or a few where it was trained for them.

    Args:
        network: the student.
        scheduler: a FlowMapEulerDiscreteScheduler.
        vae: decodes latents; None where samples are pictures.
        sample_shape: of one sample, [C, H, W].
        num_classes: classes 0 .. num_classes - 1; 0 for a student without classes.
        guidance_range: the guidance scales that the student was trained for.
        guidance_scale: the one that is used if none is given.
        latent_scale: latents were multiplied by it, one number or one per channel.
        latent_shift: mean of the latents that was taken off before; likewise.
        samplers: what the student was trained for beside one step: "chain" (from each time of the
            schedule to the next), "renoise" (to data and noised anew, each step).
        start_times: where several steps were trained from a list of times, these, falling from 1.
        num_inference_steps: the number of steps that is taken if none is given.
        sampler: which sampler if none is given.
    """

    model_cpu_offload_seq = "network->vae"
    _optional_components = ["vae"]  # noqa: RUF012 (as diffusers reads it)

    def __init__(
        self,
        network: torch.nn.Module,
        scheduler,
        vae=None,
        sample_shape: list = (1, 8, 8),
        num_classes: int = 0,
        guidance_range: list = (1.0, 2.0),
        guidance_scale: float = 1.0,
        latent_scale: float | list = 1.0,
        latent_shift: float | list = 0.0,
        samplers: list = (),
        start_times: list = (),
        num_inference_steps: int = 1,
        sampler: str = "chain",
    ) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler, vae=vae)
        self.register_to_config(
            sample_shape=list(sample_shape),
            num_classes=num_classes,
            guidance_range=list(guidance_range),
            guidance_scale=guidance_scale,
            latent_scale=latent_scale,
            latent_shift=latent_shift,
            samplers=list(samplers),
            start_times=list(start_times),
            num_inference_steps=num_inference_steps,
            sampler=sampler,
        )

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor | None = None,
        guidance_scale: float | None = None,
        num_images: int = 1,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
    ) -> ImagePipelineOutput | tuple:
        """One picture per class label, or `num_images`.

        Args:
            class_labels: one per picture; drawn uniformly if not given.
            guidance_scale: gamma; pictures are good inside the student's guidance_range.
            num_images: how many, where neither labels nor latents say so.
            generator: of the noise and of drawn labels.
            latents: the noise, [B, C, H, W].
            output_type: "pil", "np" ([B, H, W, C] in [0, 1]), "pt" ([B, C, H, W] in [0, 1]) or
                "latent".
            return_dict: return an ImagePipelineOutput rather than a tuple.
            num_inference_steps: evaluations of the network per picture.
            sampler: how more than one are joined, of the student's samplers.
        """
        steps = num_inference_steps or self.config.num_inference_steps
        sampler = sampler or self.config.sampler
        self._check(steps, sampler)
        labels = self._labels(class_labels, latents, num_images, generator)
        count = num_images if labels is None else len(labels)
        count = count if latents is None else len(latents)
        shape, device, dtype = (
            (count, *self.config.sample_shape),
            self._execution_device,
            self.network.dtype,
        )
        z = (
            randn_tensor(shape, generator, device, dtype)
            if latents is None
            else latents.to(device, dtype)
        )
        gamma = self.config.guidance_scale if guidance_scale is None else guidance_scale
        gammas = torch.full((count,), gamma, device=device)
        x = self._samples(z, labels, gammas, steps, sampler == "renoise", generator)
        images = x if output_type == "latent" else self._pictures(x, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check(self, steps, sampler):
        """Refuse steps that the student was not trained for."""
        if steps > 1 and sampler not in self.config.samplers:
            known = " or ".join(self.config.samplers)
            raise ValueError(
                f"expected {f'the sampler {known}' if known else 'num_inference_steps 1'}, which "
                f"this student was trained for, got {steps} steps by {sampler!r}"
            )
        if self._starts(steps) is None:
            numbers = range(1, len(self.config.start_times) + 1)
            known = " or ".join(str(k) for k in numbers if self._starts(k))
            raise ValueError(
                f"expected num_inference_steps {known}, whose times this student was trained at, "
                f"got {steps}"
            )

    def _starts(self, steps):
        """The times that the steps start at: evenly spaced, or the trained list; None if neither fits."""
        even, trained = [k / steps for k in range(steps, 0, -1)], self.config.start_times
        if not trained or all(min(abs(t - start) for start in trained) < 1e-6 for t in even):
            return even
        return list(trained) if steps == len(trained) else None

    def _samples(self, z, labels, gammas, steps, renoises, generator):
        """From noise along the scheduler's times, each jump to the next or to data."""
        self.scheduler.set_timesteps(sigmas=self._starts(steps), device=z.device)
        times = [*self.scheduler.timesteps, torch.zeros((), device=z.device)]
        x = z
        for t, after in zip(times[:-1], times[1:]):  # noqa: B905, RUF007 (plain for its readers)
            r = torch.zeros_like(after) if renoises else after
            start, end = (torch.ones_like(gammas) * time for time in (t, r))
            velocity = self.network(x, end, labels, gammas, start)
            x = self.scheduler.step(velocity, t, x, r_timestep=float(r), return_dict=False)[0]
            if renoises and after > 0:
                fresh = randn_tensor(x.shape, generator, x.device, x.dtype)
                x = self.scheduler.scale_noise(x, after[None], fresh)
        return x

    def _labels(self, given, latents, num_images, generator):
        classes, device = self.config.num_classes, self._execution_device
        if not classes:
            if given is not None:
                raise ValueError("this student has no classes: leave class_labels out")
            return None
        if given is None:
            count = num_images if latents is None else len(latents)
            return torch.randint(
                classes,
                (count,),
                generator=generator,
                device=generator.device if generator else "cpu",
            ).to(device)
        labels = torch.as_tensor(given).reshape(-1).to(device)
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise ValueError(f"expected class_labels in 0 .. {classes - 1}, got {labels.tolist()}")
        if latents is not None and len(latents) != len(labels):
            raise ValueError(
                f"expected one class label per latent, got {len(labels)} and {len(latents)}"
            )
        return labels

    def _pictures(self, x: Tensor, output_type: str):
        if self.vae is not None:
            scale, shift = (
                torch.as_tensor(value, dtype=torch.float32, device=x.device)
                for value in (self.config.latent_scale, self.config.latent_shift)
            )
            scale, shift = (
                value.view(-1, 1, 1) if value.ndim else value for value in (scale, shift)
            )
            x = self.vae.decode((x.float() / scale + shift).to(self.vae.dtype), return_dict=False)[
                0
            ]
        pictures = (x.float() / 2 + 0.5).clamp(0, 1).cpu()
        if output_type == "pt":
            return pictures
        arrays = pictures.permute(0, 2, 3, 1).numpy()
        return arrays if output_type == "np" else self.numpy_to_pil(arrays)
