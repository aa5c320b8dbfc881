package tagging

import "errors"

// Where the registers are, and how much address space they take up.
const (
	PortBase  = 0x0d00     // I/O port of the first register
	PortBytes = 0x30       // of I/O ports
	MMIOBase  = 0xd0000000 // guest-physical address of the same registers
	MMIOBytes = 4096
)

// Port is the tag port of one machine.
type Port struct{ mem Memory }

// NewPort returns a port without tasks.
func NewPort(mem Memory) *Port { return &Port{mem: mem} }

func (p *Port) Read(offset uint64, size int) uint32     { return 0 }
func (p *Port) Write(offset uint64, size int, v uint32) {}

func (p *Port) Attach(policy Policy, l Listener) GateState { return GateState{Open: true} }
func (p *Port) Detach()                                    {}
func (p *Port) SetState(s MigrationState)                  {}
func (p *Port) Gate() GateState                            { return GateState{Open: true} }
func (p *Port) Moved()                                     {}

func (p *Port) Save() []byte { return nil }
func (p *Port) Load(state []byte) error {
	return errors.New("not implemented")
}

// Fingerprint is Save without times: equal on both sides of a migration.
func (p *Port) Fingerprint() []byte { return nil }

func (p *Port) Snapshot() Info { return Info{} }

func (p *Port) Subscribe(f func(Transition)) (unsubscribe func()) { return func() {} }
