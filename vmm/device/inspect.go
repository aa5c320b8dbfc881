package device

// Info is the state of a device with queues that helps to find out why a guest hangs.
type Info struct {
	Name  string
	State string // one of the constants below
	// Broken says why the device is broken. It is empty for one that arrived broken.
	Broken string
	Queues []QueueInfo
}

// What a device is doing.
const (
	StateUnused  = "unused"  // it has no driver
	StateSetUp   = "set-up"  // its driver is setting it up
	StateWorking = "working" // it serves its queues
	StateBroken  = "broken"  // its driver broke a rule, and has not reset it yet
)

// QueueInfo is the state of a queue.
type QueueInfo struct {
	Size  int
	Ready bool // the driver has enabled it; otherwise the fields below are 0
	// Available counts the chains that the driver has ever put in, and Used those that the device
	// has given back, both modulo 2^16. InFlight are those that the device has taken and not given
	// back yet.
	Available, Used uint16
	InFlight        int
}

// Inspector is a device that has an Info.
type Inspector interface {
	// Inspect is called at any time, from any thread, until the device is closed. It waits for
	// nothing but locks that are held for microseconds.
	Inspect() Info
}

// Inspect returns the state of the devices that have queues, in order.
func (s *Set) Inspect() []Info {
	var all []Info
	for _, d := range s.devices {
		if i, ok := d.(Inspector); ok {
			all = append(all, i.Inspect())
		}
	}
	return all
}
