from hypothesis import settings

# The machine is shared and noisy: a slow example is no failure.
settings.register_profile("vidray", deadline=None, max_examples=200, derandomize=True)
settings.load_profile("vidray")
