package pds

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConfigRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	good := Config{PublicURL: "http://localhost:2581", ServiceDID: "did:web:localhost%3A2581", HandleDomains: []string{".test"}, AllowLoopback: true}
	require.NoError(t, good.Validate())
	for what, change := range map[string]func(*Config){
		"final slash":             func(c *Config) { c.PublicURL += "/" },
		"no scheme":               func(c *Config) { c.PublicURL = "localhost:2581" },
		"no service DID":          func(c *Config) { c.ServiceDID = "" },
		"no handle domain":        func(c *Config) { c.HandleDomains = nil },
		"domain without a dot":    func(c *Config) { c.HandleDomains = []string{"test"} },
		"upper-case domain":       func(c *Config) { c.HandleDomains = []string{".Test"} },
		"negative blob limit":     func(c *Config) { c.MaxBlob = -1 },
		"negative window":         func(c *Config) { c.EventWindow = -1 },
		"rate without window":     func(c *Config) { c.Limits = Limits{"writes": {{Points: 1}}} },
		"unknown limit":           func(c *Config) { c.Limits = Limits{"nothing": {{1, 1}}} },
		"negative factor":         func(c *Config) { c.LimitFactor = -1 },
		"too costly hash":         func(c *Config) { c.Argon2 = Argon2{MemoryKiB: 1 << 30, Passes: 1, Threads: 1} },
		"http without the switch": func(c *Config) { c.AllowLoopback = false },
		"another host's did:web":  func(c *Config) { c.ServiceDID = "did:web:localhost" },
		"negative proxies":        func(c *Config) { c.TrustedProxies = -1 },
	} {
		c := good
		change(&c)
		assert.Error(t, c.Validate(), what)
	}
}

// The switch for development cannot stay on by mistake where the server is on the network.
func TestLoopbackIsRefusedWhereThePublicAddressIsHTTPS(t *testing.T) {
	t.Parallel()
	c := Config{PublicURL: "https://pds.example.org", ServiceDID: "did:web:pds.example.org", HandleDomains: []string{".example.org"}}
	require.NoError(t, c.Validate())
	c.AllowLoopback = true
	require.ErrorContains(t, c.Validate(), "must not allow it")
}
