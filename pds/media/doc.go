// Package media knows files by their first bytes, and takes out of photos and films what was not photographed: place, camera, owner, remarks.
//
// Invariants:
//
//	M1. Not one pixel or sample changes: a plan copies runs of the original and writes nothing into coded data.
//	M2. What is kept is on a list; what is not known is left out, not let through.
//	M3. A photo stays upright: the orientation is the one thing of its Exif data that is kept.
//	M4. A plan for its own output changes nothing.
//	M5. Work and memory are bounded by the file's size, whatever the file claims.
//
// Nothing here touches network, clock or disk.
package media
