"""A pytest plugin: hypothesis reports the first failure and does not look for a smaller one."""

from hypothesis import Phase, settings

settings.register_profile(
    "mutants", phases=(Phase.explicit, Phase.generate), database=None, deadline=None
)
settings.load_profile("mutants")
