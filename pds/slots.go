package pds

import (
	"net/http"
	"sync"
	"time"

	"city-sync.org/citysync/internal/xrpc"
)

// slots bound work that lasts as long as somebody else likes: of all, and of each account or address, so that none holds what is the others'.
type slots struct {
	all, each int

	mu      sync.Mutex // guards running and taken
	running map[string]int
	taken   int
}

func newSlots(all, each int) *slots {
	return &slots{all: all, each: each, running: map[string]int{}}
}

func (s *slots) enter(who string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.all || s.running[who] >= s.each {
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "too many such calls at once").After(time.Second)
	}
	s.taken++
	s.running[who]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken--
		if s.running[who]--; s.running[who] == 0 {
			delete(s.running, who)
		}
	}, nil
}
