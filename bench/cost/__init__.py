"""What imagegate costs and what that grows with: a module for each thing that it may grow with."""
