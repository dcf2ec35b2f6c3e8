// In place of the browser's WebSerial: ports of ours, whose bytes go over the bridge of page_server.py to a simulated
// board. They behave as the standard says: a lost port fails its streams, a port in use cannot be closed, and one that
// is not closed cannot be opened.

class Port {
  connected = true;
  taken = false; // by another program
  readable = null;
  writable = null;

  constructor(usbVendorId, usbProductId) {
    this.getInfo = () => ({usbVendorId, usbProductId});
  }

  async open({baudRate}) {
    if (!(baudRate > 0)) throw new TypeError("baudRate");
    if (this.socket) throw new DOMException("The port is already open.", "InvalidStateError");
    if (!this.connected || this.taken) throw new DOMException("Failed to open serial port.", "NetworkError");
    window.opened.push(this.getInfo().usbProductId);
    const socket = this.socket = new WebSocket(`ws://${location.host}/board`);
    socket.binaryType = "arraybuffer";
    await new Promise((resolve) => { socket.onopen = resolve; });
    const lost = new DOMException("The device has been lost.", "NetworkError");
    this.readable = new ReadableStream({
      start: (arrived) => {
        socket.onmessage = ({data}) => arrived.enqueue(new Uint8Array(data));
        socket.onclose = () => {
          this.connected = false;
          this.readable = null;
          arrived.error(lost);
        };
      },
      cancel: () => { this.readable = null; },
    });
    this.writable = new WritableStream({
      write: (bytes) => {
        if (!this.connected) {
          this.writable = null;
          throw lost;
        }
        socket.send(bytes);
      },
      close: () => { this.writable = null; },
    });
  }

  async close() {
    if (this.readable?.locked || this.writable?.locked) throw new TypeError("Cannot cancel a locked stream");
    this.readable = this.writable = null;
    const {socket} = this;
    if (socket.readyState !== WebSocket.CLOSED) {
      await new Promise((resolve) => {
        socket.onclose = resolve; // it is not lost
        socket.close();
      });
    }
    this.socket = null;
  }
}

window.opened = []; // the product of every port that was opened
window.asked = []; // the filters of every request
window.ports = [new Port(0x2341, 0x0043), new Port(0x10c4, 0x005a)]; // an Uno and another maker's, once granted
window.plug = () => { ports.push(new Port(0x2341, 0x805a)); }; // the browser has another object for a port that is back
plug();
Object.defineProperty(navigator, "serial", {value: {
  getPorts: async () => [...ports],
  requestPort: async ({filters}) => {
    asked.push(filters);
    return ports.at(-1);
  },
}});
