package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"city-sync.org/citysync/lexicons"
)

const (
	batchWrites   = 200  // records of one applyWrites: the most a commit takes
	exportRecords = 5000 // records of the repository that is exported
	exports       = 5    // of one round
)

// reference measures ours beside the reference, by turns.
func (b *bench) reference(ctx context.Context, s *server) (err error) {
	ref, node, err := b.startReference(ctx, s.plcURL)
	if errors.Is(err, errNoReference) {
		b.note = "No Node 22 or newer here, nor npm to fetch one: no row stands beside " + referenceName + "."
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ref.stop()) }()
	b.note = fmt.Sprintf(referenceNote, node)
	// Repositories that are as new as those of the reference: the longer one is, the more of its tree each write changes.
	ours := &host{url: s.url, pid: s.pid}
	if err := b.populate(ctx, ours, "beside"); err != nil {
		return err
	}
	hosts := []*host{ours, ref}
	both := func(name, unit string, measure func(h *host) (float64, error)) error {
		for range rounds {
			var figures [2]float64
			for i, h := range hosts {
				syscall.Sync() // what one left for the disk is not to be waited for by the other
				if figures[i], err = measure(h); err != nil {
					return fmt.Errorf("%s at %s: %w", name, h.url, err)
				}
			}
			b.add(name, unit, figures[0], "the reference, "+unit, figures[1])
		}
		return nil
	}
	for _, h := range hosts {
		if err := h.warm(ctx); err != nil {
			return err
		}
	}
	for _, clients := range []int{1, writers} {
		name := fmt.Sprintf("createRecord, %d client(s)", clients)
		err := both(name, "records/s", func(h *host) (float64, error) {
			return perSecond(clients, func(i int) error {
				_, err := h.users[i].write(ctx)
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	err = both(fmt.Sprintf("applyWrites of %d", batchWrites), "records/s", func(h *host) (float64, error) {
		n, err := perSecond(1, func(int) error { return h.users[1].apply(ctx) })
		return n * batchWrites, err
	})
	if err != nil {
		return err
	}
	for range rounds {
		own, _, err := b.frames(ctx, ours)
		if err != nil {
			return err
		}
		theirs, _, err := b.frames(ctx, ref)
		if err != nil {
			return err
		}
		for _, q := range quantiles {
			b.add("write to frame beside the reference, "+q.name, "ms", quantile(own, q.q), "the reference, ms", quantile(theirs, q.q))
		}
	}
	if err := b.carExports(ctx, hosts, both); err != nil {
		return err
	}
	return b.memory(ours, ref)
}

// apply creates as many records as one commit takes.
func (u *user) apply(ctx context.Context) error {
	const nsid = "com.atproto.repo.applyWrites"
	var writes []any
	for range batchWrites {
		writes = append(writes, map[string]any{"$type": nsid + "#create", "collection": lexicons.WorkTask, "value": task()})
	}
	return u.client.Procedure(ctx, nsid, map[string]any{"repo": u.did, "writes": writes}, nil)
}

// carExports measures a repository's export on an account that does nothing else.
func (b *bench) carExports(ctx context.Context, hosts []*host, both func(string, string, func(*host) (float64, error)) error) error {
	exported := map[*host]*user{}
	for _, h := range hosts {
		u, err := b.signUp(ctx, h.url, "exported.test")
		if err != nil {
			return err
		}
		for range exportRecords / batchWrites {
			if err := u.apply(ctx); err != nil {
				return err
			}
		}
		exported[h] = u
	}
	return both(fmt.Sprintf("CAR of %d records", exportRecords), "ms", func(h *host) (float64, error) {
		u := exported[h]
		var took []float64
		for range exports {
			began := time.Now()
			car, err := u.client.Bytes(ctx, "com.atproto.sync.getRepo", url.Values{"did": {u.did.String()}}, 1<<28)
			if err != nil {
				return 0, err
			}
			took = append(took, milliseconds(time.Since(began)))
			if len(car) < exportRecords*100 {
				return 0, fmt.Errorf("an export of %d bytes is not the repository", len(car))
			}
		}
		return median(took), nil
	})
}

// memory compares what the processes hold after all that. Where the system does not tell, there is no row.
func (b *bench) memory(ours, ref *host) error {
	own, err := resident(ours.pid)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	theirs, err := resident(ref.pid)
	if err != nil {
		return err
	}
	b.add("resident memory after all that", "MB", own, "the reference, MB", theirs)
	database, err := databaseMemory(filepath.Join(b.dir, "database"))
	if err != nil {
		return err
	}
	b.add("the same with its PostgreSQL", "MB", own+database, "the reference, MB", theirs)
	return nil
}

// resident is the process's resident set, in megabytes.
func resident(pid int) (float64, error) {
	return procField(pid, "status", "VmRSS:")
}

// databaseMemory adds the proportional shares of a server's processes: what they hold in common is counted once.
func databaseMemory(dataDir string) (float64, error) {
	files, err := filepath.Glob(filepath.Join(dataDir, "*", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	direct, err := filepath.Glob(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	files = append(files, direct...)
	if len(files) != 1 {
		return 0, fmt.Errorf("%d servers in %s", len(files), dataDir)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	master, err := strconv.Atoi(first)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", files[0], err)
	}
	pids := []int{master}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", master, master))
	if err != nil {
		return 0, err
	}
	for word := range strings.FieldsSeq(string(children)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return 0, err
		}
		pids = append(pids, pid)
	}
	sum := 0.0
	for _, pid := range pids {
		mb, err := procField(pid, "smaps_rollup", "Pss:")
		if errors.Is(err, os.ErrNotExist) { // a backend that has ended
			continue
		}
		if err != nil {
			return 0, err
		}
		sum += mb
	}
	return sum, nil
}

// procField reads a line such as "VmRSS:   123 kB".
func procField(pid int, file, name string) (megabytes float64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == name {
			kb, err := strconv.ParseFloat(f[1], 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in %s of process %d", name, file, pid)
}
