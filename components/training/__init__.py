"""What a training changes: adapters, whole models, words. Views are bound; the components do not change."""
