package pds

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

// The first byte of a sealed value names its form.
const (
	sealDirect   = 1 // under the master key itself; read, no longer written
	sealEnvelope = 2 // under a data key of its own, which stands before it under the master key
)

// An envelope is: its form, the mark of the master key, the sealed data key, the sealed value; a sealed part is its nonce and the rest. To change the
// master key only the data keys are sealed anew (Rewrap).
const (
	keySize     = 32
	markSize    = 8
	nonceSize   = 12
	wrappedSize = nonceSize + keySize + 16
	headSize    = 1 + markSize + wrappedSize

	// keysEvery bounds how often the key files are looked at for a key that is not known.
	keysEvery = time.Second
)

var errSealed = errors.New("sealed value does not open: wrong master key or altered data")

// sealer encrypts what must not be read from a stolen database with AES-256-GCM. A label is bound in: a value moved to another row does not open.
type sealer struct {
	reload func() ([][]byte, error) // nil: the keys are as given

	mu     sync.Mutex // guards all below
	keys   []masterKey
	looked time.Time // when reload was asked last
	now    func() time.Time
}

// masterKey is one of the keys that open; the first seals.
type masterKey struct {
	mark [markSize]byte
	aead cipher.AEAD
}

func newSealer(masters ...[]byte) (*sealer, error) {
	s := &sealer{now: time.Now} //nolint:forbidigo // only paces reading of files
	if len(masters) == 0 {
		return nil, errors.New("no master key")
	}
	keys, err := parseMasters(masters)
	s.keys = keys
	return s, err
}

func parseMasters(masters [][]byte) ([]masterKey, error) {
	var out []masterKey
	for _, raw := range masters {
		if len(raw) != keySize {
			return nil, fmt.Errorf("master key has %d bytes, not %d", len(raw), keySize)
		}
		k := masterKey{aead: gcm(raw)}
		m := hmac.New(sha256.New, raw)
		m.Write([]byte("citysync master key"))
		copy(k.mark[:], m.Sum(nil))
		out = append(out, k)
	}
	return out, nil
}

// gcm takes a key of 32 bytes, for which neither step can fail.
func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// refresh reads the key files anew, so that a changed key needs no restart.
func (s *sealer) refresh() error {
	if s.reload == nil {
		return nil
	}
	masters, err := s.reload()
	if err != nil {
		return fmt.Errorf("read master keys: %w", err)
	}
	keys, err := parseMasters(masters)
	if err != nil || len(keys) == 0 {
		return fmt.Errorf("read master keys: %w", errors.Join(err, errSealed))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = keys
	return nil
}

func (s *sealer) known() []masterKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys
}

func sealPart(out []byte, aead cipher.AEAD, label string, plain []byte) []byte {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // crypto/rand does not return errors
	return aead.Seal(append(out, nonce...), nonce, plain, []byte(label))
}

func openPart(aead cipher.AEAD, label string, sealed []byte) ([]byte, error) {
	if len(sealed) < nonceSize {
		return nil, errSealed
	}
	plain, err := aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], []byte(label))
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

func (s *sealer) seal(label string, plain []byte) []byte {
	data := make([]byte, keySize)
	_, _ = rand.Read(data)
	return sealPart(s.known()[0].envelope(label, data), gcm(data), label, plain)
}

// envelope is the head of a sealed value: its data key, sealed.
func (k masterKey) envelope(label string, data []byte) []byte {
	out := append([]byte{sealEnvelope}, k.mark[:]...)
	return sealPart(out, k.aead, label, data)
}

func (s *sealer) open(label string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, errSealed
	}
	if sealed[0] == sealDirect {
		return s.openDirect(label, sealed)
	}
	data, err := s.dataKey(label, sealed)
	if err != nil {
		return nil, err
	}
	return openPart(gcm(data), label, sealed[headSize:])
}

func (s *sealer) openDirect(label string, sealed []byte) ([]byte, error) {
	for _, k := range s.known() {
		if plain, err := openPart(k.aead, label, sealed[1:]); err == nil {
			return plain, nil
		}
	}
	return nil, errSealed
}

func (s *sealer) dataKey(label string, sealed []byte) ([]byte, error) {
	if len(sealed) < headSize || sealed[0] != sealEnvelope {
		return nil, errSealed
	}
	k, err := s.marked(sealed[1 : 1+markSize])
	if err != nil {
		return nil, err
	}
	data, err := openPart(k.aead, label, sealed[1+markSize:headSize])
	if err == nil && len(data) != keySize {
		err = errSealed
	}
	return data, err
}

// marked finds a master key by its mark. One that is not known may have come since: the files are looked at again, now and then.
func (s *sealer) marked(mark []byte) (masterKey, error) {
	if k, ok := byMark(s.known(), mark); ok {
		return k, nil
	}
	s.mu.Lock()
	now := s.now()
	wait := now.Sub(s.looked) < keysEvery
	if !wait {
		s.looked = now
	}
	s.mu.Unlock()
	if wait {
		return masterKey{}, errSealed
	}
	if err := s.refresh(); err != nil {
		return masterKey{}, err
	}
	if k, ok := byMark(s.known(), mark); ok {
		return k, nil
	}
	return masterKey{}, errSealed
}

func byMark(keys []masterKey, mark []byte) (masterKey, bool) {
	for _, k := range keys {
		if bytes.Equal(k.mark[:], mark) {
			return k, true
		}
	}
	return masterKey{}, false
}

// rewrap seals a value's data key under the first master key. It answers nil where that is so already. What is sealed directly gets an envelope.
func (s *sealer) rewrap(label string, sealed []byte) ([]byte, error) {
	first := s.known()[0]
	if len(sealed) > 0 && sealed[0] == sealDirect {
		plain, err := s.openDirect(label, sealed)
		if err != nil {
			return nil, err
		}
		return s.seal(label, plain), nil
	}
	if len(sealed) > markSize && bytes.Equal(sealed[1:1+markSize], first.mark[:]) {
		return nil, nil
	}
	data, err := s.dataKey(label, sealed)
	if err != nil {
		return nil, err
	}
	return append(first.envelope(label, data), sealed[headSize:]...), nil
}
