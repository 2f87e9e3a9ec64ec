"""Commands under the names they had: folders of this one are searched after the packages of their names."""
