package pds

import (
	"net/http"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
)

// slots bound work that lasts as long as somebody else likes: of all accounts, and of each, so that none holds what is the others'.
type slots struct {
	all, each int

	mu      sync.Mutex // guards running and taken
	running map[syntax.DID]int
	taken   int
}

func newSlots(all, each int) *slots {
	return &slots{all: all, each: each, running: map[syntax.DID]int{}}
}

func (s *slots) enter(did syntax.DID) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.all || s.running[did] >= s.each {
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "too many such calls at once").After(time.Second)
	}
	s.taken++
	s.running[did]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken--
		if s.running[did]--; s.running[did] == 0 {
			delete(s.running, did)
		}
	}, nil
}
