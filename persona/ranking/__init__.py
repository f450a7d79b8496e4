"""From a person's context to explained offers: channels, fusion, policy, the fitted model and its publication. No queries, no HTTP."""
