// Whether this board, with this library, computes the bytes that it should.
#ifndef MIRNET_SELF_TEST_H_
#define MIRNET_SELF_TEST_H_

#include "status.h"

namespace mirnet {

// Runs the model on the golden input, compares every byte of its output with
// the golden one, and sends the result as one line. After anything but kOk the
// sketch must halt, because its pictures would be wrong.
Status SelfTest();

}  // namespace mirnet

#endif  // MIRNET_SELF_TEST_H_
