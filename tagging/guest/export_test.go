package guest

import "taskguide/tagging"

// Over returns Tags over a tag port in this process, which stands for a machine's.
func Over(port *tagging.Port) (*Tags, error) { return newTags(&machine{port: port}) }
