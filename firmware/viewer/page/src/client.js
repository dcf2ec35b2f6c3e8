// The page's side of the worker.

const worker = new Worker("worker.js");
const waiting = new Map();
const stopped = () => new Error("The page's worker has stopped: reload the page.");
let last = 0, broken = false;

worker.onmessage = ({data: {id, result, fault}}) => {
  if (broken) return;
  const {resolve, reject} = waiting.get(id);
  waiting.delete(id);
  if (fault) reject(new Error(fault));
  else resolve(result);
};
worker.onerror = (event) => { // it did not load, or something in it failed outside of a task
  event.preventDefault();
  broken = true;
  for (const {reject} of waiting.values()) reject(stopped());
};

/**
 * Let the worker do something.
 *
 * @param {string} task a name in worker.js
 * @param {object} given what the task takes
 * @param {Transferable[]} [handed] what of it changes hands
 * @returns {Promise<object>} rejects with an Error whose message is for the visitor
 */
export function ask(task, given = {}, handed = []) {
  const id = ++last;
  return new Promise((resolve, reject) => {
    if (broken) throw stopped();
    waiting.set(id, {resolve, reject});
    worker.postMessage({id, task, ...given}, handed);
  });
}
