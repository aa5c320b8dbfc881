//go:build !(linux && amd64)

package guest

import "fmt"

// Open returns ErrNoPort, because only Linux on amd64 has tag ports.
func Open() (*Tags, error) { return nil, fmt.Errorf("%w: not Linux on amd64", ErrNoPort) }

// FastTags returns ErrNoPort, because there is no port.
func (t *Tags) FastTags() error { return fmt.Errorf("fast tags: %w", ErrNoPort) }
