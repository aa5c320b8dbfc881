//go:build !(linux && amd64)

package guest

import "fmt"

// Open returns ErrNoPort: there are tag ports for Linux on amd64 only.
func Open() (*Tags, error) { return nil, fmt.Errorf("%w: not Linux on amd64", ErrNoPort) }

// FastTags cannot succeed without a port.
func (t *Tags) FastTags() error { return fmt.Errorf("fast tags: %w", ErrNoPort) }
