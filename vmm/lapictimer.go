package vmm

import "time"

// The local APIC's timer counts down from an initial count (Intel SDM volume 3, 12.5.4), once in
// its one-shot mode, and again and again in its periodic mode. KVM runs it by a host's timer, also
// while the vCPU stands still. KVM_GET_LAPIC returns the count that is left, and KVM_SET_LAPIC
// starts the timer with it. By themselves these two calls lose or add interrupts:
//
//   - A one-shot timer that has expired is saved with a count of 0. KVM would start it with that,
//     so it would expire at once, at every move. It is loaded as a timer that was never started (an
//     initial count of 0), and its interrupt is requested instead.
//   - The count does not include the time for which the machine stood still. That time is
//     subtracted, and the interrupt is requested if the timer expired meanwhile.
//   - An expired timer's interrupt is not in the LAPIC before its vCPU has run again: KVM keeps it
//     elsewhere, does not show it, and drops it when a LAPIC is loaded. So it is requested wherever
//     it may be missing.
//
// KVM shows the same for an interrupt that was delivered and for one that was not. In that case it
// is requested, because one too many is a spurious tick, while one too few can make a guest wait
// for ever. So a one-shot timer that has expired since it was started fires once more, at the first
// move after that only, and a periodic timer ticks once at every move.
//
// A timer in TSC-deadline mode needs none of this, because its deadline is a point in time, and KVM
// clears it once the interrupt is in the LAPIC.

// Registers of the local APIC by offset, and the LVT timer's fields.
const (
	apicSpurious     = 0xf0
	apicInitialCount = 0x380
	apicDivide       = 0x3e0

	apicSoftwareEnable = 1 << 8 // of the spurious vector register

	lvtVector       = 0xff
	lvtDelivery     = 7 << 8 // 0 is a fixed interrupt
	lvtMasked       = 1 << 16
	lvtModeShift    = 17
	timerOneShot    = 0
	timerPeriodic   = 1
	lowestIRQVector = 16
)

// apicTickNS is a tick of a LAPIC's timer before division, in nanoseconds. KVM's timers have 1 GHz
// (APIC_BUS_CYCLE_NS, which KVM_CAP_X86_APIC_BUS_CYCLES_NS could change).
const apicTickNS = 1

// lapicTimer gives access to the timer in a LAPIC's registers.
type lapicTimer []byte

func (l lapicTimer) get(reg int) uint32    { return le.Uint32(l[reg:]) }
func (l lapicTimer) set(reg int, v uint32) { le.PutUint32(l[reg:], v) }

func (l lapicTimer) mode() uint32 { return l.get(apicLVTTimer) >> lvtModeShift & 3 }

// tick is how long the count stays at one number. The divider is in bits 3, 1 and 0, where 111
// divides by 1, 000 by 2, 001 by 4 and so on.
func (l lapicTimer) tick() time.Duration {
	d := l.get(apicDivide)
	return apicTickNS << (((d&3 | d>>1&4) + 1) & 7)
}

func (l lapicTimer) period() time.Duration {
	return time.Duration(l.get(apicInitialCount)) * l.tick()
}

func (l lapicTimer) left() time.Duration {
	return time.Duration(l.get(apicCurrentCount)) * l.tick()
}

// setLeft sets the count so that the timer expires after a time at the earliest.
func (l lapicTimer) setLeft(d time.Duration) {
	l.set(apicCurrentCount, uint32((d+l.tick()-1)/l.tick()))
}

// request requests the timer's interrupt, as the LAPIC does when its timer expires. If it is
// already requested, nothing changes.
func (l lapicTimer) request() {
	lvt := l.get(apicLVTTimer)
	vector := lvt & lvtVector
	if lvt&(lvtMasked|lvtDelivery) != 0 || vector < lowestIRQVector ||
		l.get(apicSpurious)&apicSoftwareEnable == 0 {
		return
	}
	l[apicIRR+vector/32*16+vector%32/8] |= 1 << (vector % 8)
}

// advance moves the timer on by the time for which the machine stood still. It turns an expired
// one-shot timer into one that KVM does not start, and requests an interrupt that may be missing.
func (l lapicTimer) advance(stood time.Duration) {
	mode, left := l.mode(), l.left()
	switch {
	case l.get(apicInitialCount) == 0 || mode != timerOneShot && mode != timerPeriodic:
		return // the timer does not count in this mode
	case mode == timerOneShot && left > stood:
		l.setLeft(left - stood)
		return
	case mode == timerOneShot:
		l.set(apicInitialCount, 0)
		l.set(apicCurrentCount, 0)
	case left > stood:
		l.setLeft(left - stood)
	default:
		l.setLeft(l.period() - (stood-left)%l.period())
	}
	l.request()
}
