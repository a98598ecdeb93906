package pds

import "sync"

// rememberedMost bounds what is remembered of each kind. Forgetting one costs a round trip.
const rememberedMost = 20_000

// remembered is what this process knows since it last asked, and takes for granted until the database says otherwise.
type remembered[K comparable, V any] struct {
	mu    sync.Mutex // guards known
	known map[K]V
}

func newRemembered[K comparable, V any]() *remembered[K, V] {
	return &remembered[K, V]{known: map[K]V{}}
}

func (r *remembered[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.known[k]
	return v, ok
}

func (r *remembered[K, V]) put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[k]; !ok && len(r.known) >= rememberedMost {
		for other := range r.known { // any
			delete(r.known, other)
			break
		}
	}
	r.known[k] = v
}

func (r *remembered[K, V]) drop(k K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, k)
}
