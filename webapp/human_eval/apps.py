"""Human evaluation as Django sees it."""

from django.apps import AppConfig


class HumanEvalConfig(AppConfig):
    """Takes the responses that stages have sampled, and says what campaigns depend on."""

    name = "webapp.human_eval"
    verbose_name = "Human evaluation"

    def ready(self) -> None:
        """Ask to be told when a stage of kind `responses` has finished, and before something is deleted."""
        from webapp.human_eval.dependents import campaigns_of
        from webapp.human_eval.responses import take_finished
        from webapp.runs.completion import on_completion
        from webapp.runs.deletion import depends

        on_completion("responses", take_finished)
        depends(campaigns_of)
