"""What training minimises, and the networks that it minimises it with: poses, masked patches, a teacher."""
