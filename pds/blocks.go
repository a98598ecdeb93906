package pds

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/repo"
)

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// blocks reads one repository's tree, node by node, as the tree asks for it.
type blocks struct {
	q     querier
	did   syntax.DID
	cache *blockCache
}

func (b blocks) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := b.cache.get(c); ok {
		return data, nil
	}
	var data []byte
	err := b.q.QueryRow(ctx, `select bytes from block where did = $1 and cid = $2`, b.did, c.Bytes()).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("block %s of %s: %w", c, b.did, repo.ErrBlockMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("read block %s of %s: %w", c, b.did, err)
	}
	b.cache.put(c, data)
	return data, nil
}

// blockCache keeps the blocks used last. A block is named by its hash, so an entry can be
// stale for nobody; whether it belongs to a repository is decided by the head it is
// reached from.
type blockCache struct {
	max int

	mu    sync.Mutex // guards the rest
	size  int
	byCID map[string]*list.Element
	order *list.List // most recently used in front
}

type cachedBlock struct {
	key  string
	data []byte
}

// cacheBytes holds the upper tree nodes of a thousand repositories and more.
const cacheBytes = 16 << 20

func newBlockCache(max int) *blockCache {
	return &blockCache{max: max, byCID: map[string]*list.Element{}, order: list.New()}
}

func (c *blockCache) get(id cid.Cid) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byCID[id.KeyString()]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*cachedBlock).data, true
}

func (c *blockCache) put(id cid.Cid, data []byte) {
	if len(data) > c.max/64 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := id.KeyString()
	if _, ok := c.byCID[key]; ok {
		return
	}
	c.byCID[key] = c.order.PushFront(&cachedBlock{key: key, data: data})
	c.size += len(key) + len(data)
	for c.size > c.max {
		old := c.order.Remove(c.order.Back()).(*cachedBlock)
		delete(c.byCID, old.key)
		c.size -= len(old.key) + len(old.data)
	}
}
