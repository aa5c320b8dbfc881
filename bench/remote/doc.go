// Package remote works at another host, by nothing but an ssh connection.
//
// A host needs a login that asks for nothing, a shell and some room for files. [Connect] copies
// this program there and starts it, as an agent. Both speak over the standard streams of that one
// ssh, which carries many streams at once (yamux):
//
//	controller                            host
//	Connect ──► ssh HOST sh -c ... ─────► Serve   (this program, in a folder of its own)
//	 call   ════════ one stream ════════► a method of a service (net/rpc)
//	 Put    ════════ a stream each ═════► a file in the folder
//	 Dial   ════════ a stream each ═════► a unix socket in the folder
//
// So nothing depends on what kind of ssh it is, and no port is opened.
//
// # Nothing stays
//
// The agent ends, its children with it, and its folder is removed, when its standard input ends or
// the controller has not answered for [patience]. The one is how the end of the controller looks,
// by whatever signal, and the other a network that is gone.
//
// # Clocks
//
// [Conn.Clock] asks for the host's time several times. The answer that took least bounds the
// difference from this host's clock to half of the time that it took.
package remote
