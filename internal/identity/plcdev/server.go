// Package plcdev is a did:plc directory for a city on one machine and for tests. It judges operations by the
// same rules as the public directory and keeps them in one append-only file.
//
// Invariants:
//
//	P1. An operation is answered 200 only after its line is written and synced.
//	P2. The file is the truth: memory is rebuilt from it by the same checks, and a file that does not pass them
//	    is refused. Only a last line that was torn by a crash is cut off; nobody was told of it.
//	P3. Times within one DID's history rise strictly, whatever the clock does.
package plcdev

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
)

const (
	maxLine    = 64 << 10
	maxHistory = 500 // operations of one DID
)

var (
	errNotRegistered = errors.New("DID not registered")
	errFull          = errors.New("too many operations of one DID")
	errStore         = errors.New("the operation could not be stored")
)

// Server is the directory. It is safe for concurrent use.
type Server struct {
	clock clock.Clock

	mu     sync.RWMutex
	file   *os.File              // guarded by mu
	size   int64                 // guarded by mu: length of the whole lines in file
	broken bool                  // guarded by mu: a write failed, and what the file holds is unsure
	log    []identity.AuditEntry // guarded by mu: everything, in order; index+1 is the seq
	byDID  map[syntax.DID][]int  // guarded by mu: indexes into log
	latest time.Time             // guarded by mu: of the newest entry
}

// New opens the directory kept in the file at path, which is made when missing. A second process on the same
// file is refused.
func New(path string, c clock.Clock) (*Server, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open plc log: %w", err)
	}
	s := &Server{clock: c, file: f, byDID: make(map[syntax.DID][]int)}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("load plc log %s: %w", path, err), f.Close())
	}
	return s, nil
}

func (s *Server) load() error {
	if err := syscall.Flock(int(s.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another process has it open: %w", err)
	}
	r := bufio.NewReaderSize(s.file, maxLine)
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			// What stands after the last line end was never acknowledged (P1).
			if err := s.file.Truncate(s.size); err != nil {
				return fmt.Errorf("cut torn line: %w", err)
			}
			_, err := s.file.Seek(s.size, io.SeekStart)
			return err
		case err != nil:
			return fmt.Errorf("line %d: %w", n, err)
		}
		var e identity.AuditEntry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if e.CID != e.Operation.CID().String() {
			return fmt.Errorf("line %d: the operation has another CID", n)
		}
		nullified, err := identity.CheckNext(e.DID, s.history(e.DID), e.Operation, e.CreatedAt)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		s.commit(e, nullified)
		s.size += int64(len(line))
	}
}

// Close closes the file. The server takes nothing after it.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
	return s.file.Close()
}

// history copies the audit log of one DID. The caller holds mu.
func (s *Server) history(did syntax.DID) []identity.AuditEntry {
	idx := s.byDID[did]
	es := make([]identity.AuditEntry, len(idx))
	for i, j := range idx {
		es[i] = s.log[j]
	}
	return es
}

// commit takes a checked entry into memory. The caller holds mu, or is New.
func (s *Server) commit(e identity.AuditEntry, nullified []string) {
	for _, c := range nullified {
		for _, j := range s.byDID[e.DID] {
			if s.log[j].CID == c {
				s.log[j].Nullified = true
			}
		}
	}
	s.byDID[e.DID] = append(s.byDID[e.DID], len(s.log))
	s.log = append(s.log, e)
	if e.CreatedAt.After(s.latest) {
		s.latest = e.CreatedAt
	}
}

// Add judges an operation and stores it durably. An error that is not errStore is final for that operation.
func (s *Server) Add(did syntax.DID, op identity.Operation) error {
	if err := checkIncoming(op); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return errStore
	}
	hist := s.history(did)
	if len(hist) >= maxHistory {
		return errFull
	}
	at := s.clock.Now().UTC().Truncate(time.Millisecond)
	if at.Before(s.latest) { // the clock went back
		at = s.latest
	}
	if n := len(hist); n > 0 && !at.After(hist[n-1].CreatedAt) {
		at = hist[n-1].CreatedAt.Add(time.Millisecond)
	}
	nullified, err := identity.CheckNext(did, hist, op, at)
	if err != nil {
		return err
	}
	e := identity.AuditEntry{DID: did, Operation: op, CID: op.CID().String(), CreatedAt: at}
	if err := s.write(e); err != nil {
		return err
	}
	s.commit(e, nullified)
	return nil
}

// write appends one line and syncs it. After a failure the half line is cut off; if that fails too, the server
// takes nothing more and a restart finds out what the file holds.
func (s *Server) write(e identity.AuditEntry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	line = append(line, '\n') // JSON has no line break of its own
	if len(line) > maxLine {
		return invalid("too long in JSON")
	}
	_, err = s.file.WriteAt(line, s.size)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		s.broken = true
		if s.file.Truncate(s.size) == nil && s.file.Sync() == nil {
			s.broken = false
		}
		return fmt.Errorf("%w: %w", errStore, err)
	}
	s.size += int64(len(line))
	return nil
}

func (s *Server) audit(did syntax.DID) ([]identity.AuditEntry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	es := s.history(did)
	if len(es) == 0 {
		return nil, errNotRegistered
	}
	return es, nil
}

// last is the operation in force, a tombstone included.
func (s *Server) last(did syntax.DID) (identity.Operation, error) {
	es, err := s.audit(did)
	if err != nil {
		return identity.Operation{}, err
	}
	return es[len(es)-1].Operation, nil // the newest is never nullified
}
