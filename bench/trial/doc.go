// Package trial runs one trial: a guest boots, works, is moved once, and is looked at before, during and after.
//
// A [Spec] says everything about a trial and a [Result] everything that came of it; both are JSON, and a result holds
// its spec, so that a line of raw results explains itself. Nothing is simulated: a trial starts two VM processes as
// anybody would, asks for the migration through the control socket, and reads the guest's serial port:
//
//	spec ──► vmm run ──► heartbeats ──► request at the wanted ──► migration ──► heartbeats ──► result
//	         vmm run --incoming        point of the cycle                       elsewhere
//
// The peer is QEMU, with the same guest, command line and link ([Spec.QEMU]).
//
// # Whose clock
//
// Two parties say how long the guest stood still. The VMM reports a downtime, between two moments of its choosing. The
// guest reports its longest gap between two steps of its work, which is what its users feel, but which also holds what
// else kept it from running, such as a busy host. Results have both, and the longest gap before the migration, too, so
// that the noise can be told from the effect.
//
// # When in the cycle
//
// A guest whose program alternates between a busy and a cool phase has a cycle, and what a migration costs depends on the
// point of the cycle at which it is asked for. A trial hits a point by following the guest's tags, or, where it has
// none, its heartbeats, of which the n-th comes n seconds after the first cycle began; what it hit is in
// [Result.Request].
//
// # Links
//
// A migration goes over the loopback, shaped by the engine's own limit, or over a [Link]: two network namespaces with a
// veth pair, shaped by the kernel's token bucket filter. The namespaces have no names. They last as long as somebody
// is in them, so that nothing is left behind however a run ends.
package trial
