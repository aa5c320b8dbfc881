package policy

// Guidance says what a closed gate holds back.
type Guidance string

// What Guidance may be.
const (
	GuidanceSwitchover Guidance = "switchover" // only the stop-and-copy waits for the gate
	GuidanceSuspend    Guidance = "suspend"    // as start, and a closing gate suspends the stream
	GuidanceStart      Guidance = "start"      // the migration begins once the gate is open
	GuidanceOff        Guidance = "off"        // nothing waits
	// GuidanceNone says that the guest has no registered task. It is only reported; an order cannot
	// ask for it.
	GuidanceNone Guidance = "none"
)

// waitsToStart tells whether no page is sent before the gate was open.
func (g Guidance) waitsToStart() bool { return g == GuidanceStart || g == GuidanceSuspend }

// holdsSwitchover tells whether the stop-and-copy waits for the gate.
func (g Guidance) holdsSwitchover() bool { return g == GuidanceSwitchover || g == GuidanceSuspend }

// OnTimeout says what happens once a migration was deferred for as long as it may be.
type OnTimeout string

// What OnTimeout may be.
const (
	TimeoutForce  OnTimeout = "force"  // the policy alone decides from then on
	TimeoutCancel OnTimeout = "cancel" // the migration ends, the guest stays
)
