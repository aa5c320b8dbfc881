// Package trial runs one trial: a guest boots, works and is moved once. It is watched before,
// during and after the move.
//
// A [Spec] says everything about a trial, and a [Result] says everything that came of it. Both are
// JSON, and a result holds its spec, so that a line of raw results explains itself. Nothing is
// simulated: a trial starts two VM processes as a user would, requests the migration through the
// control socket, and reads the guest's serial port:
//
//	spec ► vmm run ► heartbeats ► request at the wanted ► migration ► heartbeats ► result
//	       vmm run --incoming     point of the cycle                  elsewhere
//
// The peer is QEMU, with the same guest, command line and link ([Spec.QEMU]).
//
// # Whose clock
//
// Two parties say how long the guest stood still. The VMM reports a downtime, between two moments
// of its choosing. The guest reports the longest gap between two steps of its work. Its users feel
// that gap, but a busy host, or anything else that kept the guest from running, adds to it. Results
// have both, and also the longest gap before the migration, so that the noise can be told from the
// effect.
//
// # When in the cycle
//
// A guest whose program alternates between a busy and a cool phase has a cycle, and what a
// migration costs depends on the point of the cycle at which it is asked for. A trial hits a point
// by following the guest's tags. A guest without tags is followed by its heartbeats: the n-th comes
// n seconds after the first cycle began. [Result.Request] has the point that was hit.
//
// # Links
//
// A migration goes over the loopback, shaped by the engine's own limit, or over a [Link]: two
// network namespaces with a veth pair, shaped by the kernel's token bucket filter. The namespaces
// have no names. They exist as long as a process is in them, so nothing is left behind however a
// run ends.
package trial
