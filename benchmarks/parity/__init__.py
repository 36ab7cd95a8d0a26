"""Agreement with public implementations: the same small models merged by this project, by FusionBench and by mergekit."""
