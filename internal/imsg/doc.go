// Package imsg carries calls between the processes of the mail system over a
// unix stream socket, with file descriptors in the same message.
//
// A call is declared once, as a [Method] value, and used by both ends: one
// calls, the other registers a handler in its [Mux]. Either end of a [Conn] may
// call. Every request gets exactly one reply, be it minutes later; requests of
// one Conn are handled concurrently. One-way messages get no reply and are
// handled one after another, in the order in which they were sent.
//
// # Frames
//
// All numbers are big-endian. The header has 16 bytes:
//
//	length u32 | method u16 | flags u16 | request id u64 | payload
//
//	00000003 0001 0000 0000000000000007 026869    call 7 of method 1, the string "hi"
//
// The length counts the payload only and is at most 65536. Flags:
//
//	0x0001 reply     answers the request of that id of the other end
//	0x0002 error     the payload of this reply is an encoded RemoteError
//	0x0004 one-way   no reply is expected
//	0x0008 more      the message goes on in another frame; this one is full
//	0x0010 cancel    the caller lost interest in the request of that id
//	0x0f00           number of descriptors, 0 to 8, in the first frame of a message
//
// A message longer than a frame is cut into full frames with “more” and a last
// one without; frames of different messages may alternate, those of one message
// keep their order. Descriptors ride in the sendmsg that starts with the frame
// that counts them.
//
// # Payload
//
// Structs are written field by field without names; see plan. Both ends are the
// same executable, so there is no versioning. Whatever a peer sends that this
// format does not allow, or that was not asked for, ends the Conn: unknown
// methods and flags, trailing bytes, sizes above the method's bound, replies to
// nothing, descriptors nobody counted. It ends nothing else.
//
// # Bounds
//
// At most Options.MaxCalls calls are outstanding in each direction; further
// callers wait. An end that receives more stops reading until a handler is
// done. As callers respect the bound themselves, two ends with equal options
// may call each other from handlers without blocking one another. At most
// Options.MaxQueued bytes wait to be written, and callers wait beyond that. At
// most 16 messages per direction are partly sent. Decoded values take at most
// about 32 bytes of memory per byte received.
package imsg
