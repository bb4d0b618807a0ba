"""From an alarm to a judged candidate: material, decision, jobs, gates."""
