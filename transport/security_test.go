package transport

import (
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"taskguide/integration/need"
)

// TestPlainTextStaysHere: without TLS, nothing leaves this host and nothing enters it, unless the
// user ordered that.
func TestPlainTextStaysHere(t *testing.T) {
	inNamespace(t, "192.0.2.1/24", "2001:db8::1/64")
	names := map[string]error{
		"127.0.0.1": nil, "127.1.2.3": nil, "[::1]": nil, "[::ffff:127.0.0.1]": nil,
		"192.0.2.1": &PlainError{}, "[::ffff:192.0.2.1]": &PlainError{}, "0.0.0.0": &PlainError{},
		"[2001:db8::1]": &PlainError{}, "[::]": &PlainError{},
	}
	for host, refusal := range names {
		anywhere, err := Listen("tcp:"+host+":0", Security{Plain: PlainAnywhere})
		require.NoError(t, err, host)
		_, port, err := net.SplitHostPort(anywhere.Addr().String())
		require.NoError(t, err)
		to := "tcp:" + host + ":" + port

		sent, errSend := Dial(t.Context(), to, Security{})
		if errSend == nil {
			sent.Close()
		}
		here, errListen := Listen("tcp:"+host+":0", Security{})
		if errListen == nil {
			here.Close()
		}
		for what, err := range map[string]error{"send": errSend, "listen": errListen} {
			if refusal == nil {
				require.NoError(t, err, "%s %s", what, host)
				continue
			}
			require.ErrorAs(t, err, new(*PlainError), "%s %s", what, host)
			require.ErrorContains(t, err, "--insecure")
			require.ErrorContains(t, err, "--tls-dir")
			require.ErrorAs(t, Security{}.Check(to), new(*PlainError), "known before, too")
		}
		allowed, err := Dial(t.Context(), to, Security{Plain: PlainAnywhere})
		require.NoError(t, err, host)
		allowed.Close()
		require.NoError(t, Security{Plain: PlainAnywhere}.Check(to))
		require.NoError(t, Security{TLS: &TLS{}}.Check(to))
		anywhere.Close()
	}
	require.NoError(t, Security{}.Check("unix:/a"))
	require.NoError(t, Security{}.Check("tcp:web2:1"), "what it leads to is not known yet")
	require.ErrorIs(t, Security{}.Check("web2"), ErrAddress)
}

// TestNamesAreJudgedByWhereTheyLead: the address that is connected to or bound counts, not the
// name.
func TestNamesAreJudgedByWhereTheyLead(t *testing.T) {
	ln, err := Listen("tcp:localhost:0", Security{})
	require.NoError(t, err)
	defer ln.Close()
	nc, err := Dial(t.Context(), "tcp:"+ln.Addr().String(), Security{})
	require.NoError(t, err)
	nc.Close()
	require.ErrorAs(t, Security{}.guard("tcp4", "192.0.2.1:80", nil), new(*PlainError))
	require.NoError(t, Security{}.guard("tcp6", "[::1]:80", nil))
	require.NoError(t, Security{}.guard("unix", "192.0.2.1:80", nil), "a path")
	require.Error(t, Security{}.guard("tcp4", "no address", nil))
}

// TestAdvice: an error from connecting or listening says what to do.
func TestAdvice(t *testing.T) {
	inNamespace(t)
	taken, err := Listen("tcp:127.0.0.1:0", Security{})
	require.NoError(t, err)
	defer taken.Close()
	folder := "unix:" + t.TempDir() + "/none/s"
	anywhere := Security{Plain: PlainAnywhere}
	for addr, want := range map[string]string{
		"tcp:" + taken.Addr().String(): "use another port, or 0 for a free one",
		"tcp:192.0.2.1:1":              "use an address of this host",
		"tcp:nobody.invalid.:1":        "use an address of this host",
		folder:                         "make its folder first",
	} {
		_, err := Listen(addr, anywhere)
		require.ErrorContains(t, err, want, addr)
	}
	taken.Close()
	for addr, want := range map[string]string{
		"tcp:" + taken.Addr().String(): "is a vmm run --incoming waiting there?",
		"tcp:nobody.invalid.:1":        "use a name that this host can resolve",
		folder:                         "is a vmm run --incoming waiting there?",
	} {
		_, err := Dial(t.Context(), addr, anywhere)
		require.ErrorContains(t, err, want, addr)
	}
}

// TestAddressAskedForAndNoOther: 0.0.0.0 does not include IPv6, and [::] does not include IPv4.
func TestAddressAskedForAndNoOther(t *testing.T) {
	inNamespace(t, "192.0.2.1/24", "fe80::1/64")
	for listen, c := range map[string]struct{ reached, refused string }{
		"0.0.0.0":      {"127.0.0.1", "[::1]"},
		"[::]":         {"[::1]", "127.0.0.1"},
		"127.0.0.1":    {"127.0.0.1", "192.0.2.1"},
		"[fe80::1%lo]": {"[fe80::1%lo]", "[::1]"},
	} {
		anywhere := Security{Plain: PlainAnywhere}
		ln, err := Listen("tcp:"+listen+":0", anywhere)
		require.NoError(t, err, listen)
		_, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		shown := Bound("tcp:"+listen+":0", ln)
		require.Equal(t, "tcp:"+listen+":"+port, shown)
		nc, err := Dial(t.Context(), shown, anywhere)
		require.NoError(t, err, "what status shows can be migrated to")
		nc.Close()
		nc, err = Dial(t.Context(), "tcp:"+c.reached+":"+port, anywhere)
		require.NoError(t, err, listen)
		nc.Close()
		_, err = Dial(t.Context(), "tcp:"+c.refused+":"+port, anywhere)
		require.ErrorIs(t, err, unix.ECONNREFUSED, listen)
		ln.Close()
	}
}

// inNamespace moves the test's goroutine into a network namespace of its own, whose loopback device
// has these addresses, too. It needs root.
func inNamespace(t *testing.T, addresses ...string) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test's goroutine
	ns, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		need.Skip(t, "only root can make a network namespace")
	}
	require.NoError(t, err)
	t.Cleanup(func() { ns.Close() })
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		require.NoError(t, err)
		require.NoError(t, netlink.AddrAdd(lo, addr), a)
		// The kernel needs some time until the address can be used.
		zone := ""
		if addr.IP.IsLinkLocalUnicast() {
			zone = "lo"
		}
		for end := time.Now().Add(time.Minute); !usable(addr.IP, zone); {
			require.True(t, time.Now().Before(end), "%s is not there", a)
			time.Sleep(time.Millisecond)
		}
	}
}

func usable(ip net.IP, zone string) bool {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Zone: zone})
	if err != nil {
		return false
	}
	defer ln.Close()
	to := &net.TCPAddr{IP: ip, Zone: zone, Port: ln.Addr().(*net.TCPAddr).Port}
	nc, err := net.DialTCP("tcp", nil, to)
	if err == nil {
		nc.Close()
	}
	return err == nil
}
