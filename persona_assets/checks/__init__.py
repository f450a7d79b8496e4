"""The asset checks, one module a layer. Blocking ones look at the drops that the run applied; warnings compare with history."""
