package stockkvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// StoreDir is where both hosts of a pair see their shared store.
const StoreDir = "/shared"

// StoreModules are the server and the client of a shared store, in addition to ScriptModules. All
// of it is in the kernel; no daemon is involved.
var StoreModules = []string{"nfsd", "nfsv4"}

const (
	storeSerial = "store"
	storeBytes  = 4 << 30 // of a file with holes
)

// serveStore makes a file system on the disk with the serial number "store" and exports it by
// NFSv4.2 to the other host. It gives the kernel in advance what the daemon mountd would answer. A
// new server has no locks to give back, so its grace period is ended at once.
const serveStore = `set -e
for d in /sys/block/vd*; do
  [ "$(cat $d/serial)" != store ] || disk=/dev/${d##*/}
done
mke2fs -i 65536 $disk >/dev/null
mkdir -p /shared /var/lib/nfs/v4recovery
mount -t ext4 $disk /shared
mount -t nfsd nfsd /proc/fs/nfsd
cd /proc/fs/nfsd
echo 10 >nfsv4leasetime
echo 10 >nfsv4gracetime
echo "-2 -3 +4 +4.1 +4.2" >versions
cd /proc/net/rpc
echo "nfsd $peer 2000000000 all" >auth.unix.ip/channel
echo "all /shared 2000000000 0x2402 65534 65534 0" >nfsd.export/channel
echo 'all 1 \x00000000 2000000000 /shared' >nfsd.fh/channel
echo 2 >/proc/fs/nfsd/threads
echo Y >/proc/fs/nfsd/v4_end_grace
`

// mountStore mounts the store. Without the options in fresh, files of the other host appear up to
// 30 s late.
const mountStore = `set -e
mkdir -p /shared
fresh=lookupcache=none,actimeo=0
mount -t nfs4 -o vers=4.2,addr=$peer,clientaddr=$self,sec=sys,$fresh $peer:/ /shared
`

// AddStore gives the first host of a pair the disk of a shared store, which is a file in the host's
// folder.
func AddStore(cfg *HostConfig) error {
	file := filepath.Join(cfg.Dir, "store.img")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(storeBytes); err != nil {
		return err
	}
	cfg.Disks = append(cfg.Disks, Disk{Path: file, Serial: storeSerial})
	return f.Close()
}

// ShareStore makes both hosts see one file system at StoreDir, with locks that hold between them.
// Both hosts of a pair with AddStore must be up.
func (p *Pair) ShareStore(ctx context.Context) error {
	for i, script := range []string{serveStore, mountStore} {
		env := fmt.Sprintf("self=%s peer=%s\n", p.Address(i), p.Address(1-i))
		out, err := p.Hosts[i].Run(ctx, "sh", "-c", env+script)
		if err != nil {
			return err
		}
		if out.Exit.Status() != 0 {
			return fmt.Errorf("shared store on host %s: status %d: %s",
				PairNames[i], out.Exit.Status(), out.Stderr)
		}
	}
	return nil
}
