// Package crash kills a city while it is used, and looks afterwards whether anything that it had acknowledged is missing or was done
// twice. A PDS alone is killed at the points that a city at work does not come to. The tests have the build tag crash, which
// puts the points of internal/crash into the program; `make crash` runs them.
package crash
