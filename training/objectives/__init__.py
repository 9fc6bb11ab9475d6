"""What training minimises: the network around the model, and the losses.

A new term of the pose loss: a function and a weight in `pose.LossRecipe`, added up in `pose.PoseObjective`. A new
objective with a network or targets of its own: a module beside `mae`, its recipe in `sharpose.training.recipe.Recipe`,
and a branch in `sharpose.training.step.build_objective`.
"""
