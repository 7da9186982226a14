"""The benchmark: the hero API beside other servers, loaded in turn on one core."""
