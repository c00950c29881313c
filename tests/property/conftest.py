from hypothesis import settings

# a loaded machine is not a failure of the property
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
