package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
)

const (
	stateFile    = "city.json"
	stateVersion = 1
	folderCopy   = "folder" // the city folder as it was when the city was founded
)

// Calendars of dev.
const (
	calendarNow       = "now"
	calendarAsWritten = "as-written"
)

// cityState is what a second start needs to resume the same city. It holds the
// demonstration accounts' passwords, so it is 0600; it is written before what it
// names is used, so that a crash repeats a step and never forgets one.
type cityState struct {
	Version  int    `json:"version"`
	Instance string `json:"instance"` // the database carries the same
	Digest   string `json:"digest"`
	Calendar string `json:"calendar"`
	Weeks    int    `json:"weeks"`
	PortBase int    `json:"portBase"`
	PLCURL   string `json:"plcUrl,omitempty"` // "" where the city has a directory of its own
	// Databases says that on the private server each service has a database of its own,
	// not a schema of one.
	Databases bool           `json:"databases,omitempty"`
	SecondPDS bool           `json:"secondPds,omitempty"` // some accounts live on a second PDS
	PDS2      syntax.DID     `json:"pds2,omitempty"`
	Witnesses int            `json:"witnesses,omitempty"`
	FoundedAt time.Time      `json:"foundedAt"`
	PDS       syntax.DID     `json:"pds,omitempty"`
	AppView   syntax.DID     `json:"appview,omitempty"`
	Accounts  []stateAccount `json:"accounts"`
	// Founded is set when the first epoch is open; nothing is set up after that.
	Founded bool                `json:"founded"`
	Refused []refusedRow        `json:"refused,omitempty"`
	Entries map[string]city.Ref `json:"entries,omitempty"` // catalog row → the city's copy
}

type stateAccount struct {
	ID       string     `json:"id"`
	Handle   string     `json:"handle"`
	DID      syntax.DID `json:"did,omitempty"` // empty until the account exists
	Password string     `json:"password"`
	Roles    []string   `json:"roles"`
	Second   bool       `json:"second,omitempty"` // it lives on the second PDS
}

func (s *cityState) account(id string) *stateAccount {
	for i := range s.Accounts {
		if s.Accounts[i].ID == id {
			return &s.Accounts[i]
		}
	}
	return nil
}

// did is the DID of an account that is known to exist.
func (s *cityState) did(id string) syntax.DID {
	if a := s.account(id); a != nil {
		return a.DID
	}
	return ""
}

func (d *dataDir) saveState(s *cityState) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = writeAtomic(d.file(stateFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("save the city's state: %w", err)
	}
	return nil
}

// loadState gives nil where no city was founded here.
func (d *dataDir) loadState() (*cityState, error) {
	raw, err := os.ReadFile(d.file(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the city's state: %w", err)
	}
	var s cityState
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read the city's state: %w", err)
	}
	if s.Version != stateVersion {
		return nil, refuse("StateVersion", "%s was written by another version of this program (%d, this one reads %d)",
			d.file(stateFile), s.Version, stateVersion)
	}
	return &s, nil
}

// keepFolder copies the city folder, so that a resumed city does not depend on a
// directory that may have moved or changed.
func (d *dataDir) keepFolder(fsys fs.FS) error {
	dir := d.file(folderCopy)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep the city folder: %w", err)
	}
	for _, name := range city.Files {
		raw, err := fs.ReadFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = writeAtomic(filepath.Join(dir, name), raw, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep the city folder: %w", err)
		}
	}
	return nil
}
