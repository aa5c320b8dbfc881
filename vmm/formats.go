package vmm

import (
	"taskguide/vmm/device"
	"taskguide/vmm/state"
)

// Formats are the versions of configuration and state that a program reads and writes when a
// machine crosses hosts. [taskguide/transport.Spoken] has what it speaks on the connection.
type Formats struct {
	Configuration int           `json:"configuration_version"`
	State         int           `json:"state_version"`
	Sections      []state.Range `json:"sections"`
}

// Understood returns this program's formats, including the sections of the given extra devices.
func Understood(more ...device.Device) Formats {
	f := Formats{Configuration: configVersion, State: state.Version}
	for _, k := range known(Options{Devices: more}) {
		f.Sections = append(f.Sections, k.Range())
	}
	return f
}
