package pgdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user the server runs as.
type account struct {
	name     string
	uid, gid int
	drop     bool // this process is root and must become that user
}

// childAccount chooses the user for a cluster (D5).
func childAccount(cluster string) (account, error) {
	if os.Geteuid() != 0 {
		return account{name: "uid " + strconv.Itoa(os.Geteuid()), uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	// Whoever made the cluster keeps it, though a user postgres may have come since.
	if uid, gid, ok := ownerOf(cluster); ok && uid != 0 {
		return account{name: "uid " + strconv.Itoa(uid), uid: uid, gid: gid, drop: true}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid > 0 {
			return account{name: name, uid: uid, gid: gid, drop: true}, nil
		}
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it: add one, or start as an ordinary user")
}

func ownerOf(path string) (uid, gid int, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(st.Uid), int(st.Gid), true
}

// attr makes a child process run as the account, in a process group of its own: Ctrl-C in
// a terminal reaches the whole foreground group, and the database must outlive its users.
func (a account) attr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} // both positive by childAccount
	}
	return attr
}

// own gives a folder and all in it to the account, when this process may do so.
func (a account) own(dir string) error {
	if !a.drop {
		return nil
	}
	if uid, _, ok := ownerOf(dir); ok && uid == a.uid {
		return nil // the folder is given last, so its owner speaks for all in it
	}
	give := func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return os.Lchown(path, a.uid, a.gid)
	}
	if err := filepath.WalkDir(dir, give); err != nil {
		return fmt.Errorf("give %s to %s: %w", dir, a.name, err)
	}
	return os.Lchown(dir, a.uid, a.gid)
}

// prepareFolder makes the data folder and checks that the database's user gets there.
func prepareFolder(dir string) (account, error) {
	// Others may pass through; the cluster inside is closed to all but its user.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return account{}, fmt.Errorf("make data folder: %w", err)
	}
	cluster := filepath.Join(dir, "cluster")
	who, err := childAccount(cluster)
	if err != nil {
		return account{}, err
	}
	if uid, _, ok := ownerOf(cluster); ok && !who.drop && uid != who.uid {
		return account{}, fmt.Errorf("%s belongs to uid %d, this process is uid %d: %w", cluster, uid, who.uid, ErrUnreachable)
	}
	if who.drop {
		if at := barrier(dir, who.uid, who.gid); at != "" {
			return account{}, fmt.Errorf("%w: user %s, whom PostgreSQL runs as under root, may not enter %s; choose a data folder outside it (such as /var/lib/citysync) or open it with chmod o+x",
				ErrUnreachable, who.name, at)
		}
	}
	return who, nil
}

// barrier is the outermost folder on the way to dir that the user may not pass by its mode
// bits, or "".
func barrier(dir string, uid, gid int) string {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return dir
	}
	closed := ""
	for p := resolved; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return p
		}
		if u, g, ok := ownerOf(p); ok {
			bit := fs.FileMode(0o001)
			switch {
			case u == uid:
				bit = 0o100
			case g == gid:
				bit = 0o010
			}
			if info.Mode()&bit == 0 {
				closed = p
			}
		}
		if p == filepath.Dir(p) {
			return closed
		}
	}
}
