const std = @import("std");

// What a letter has grown into: the ends, and how often ba stands in it.
const Word = struct { first: u8, last: u8, count: u64 };

fn join(x: Word, y: Word) Word {
    const seam: u64 = if (x.last == 'b' and y.first == 'a') 1 else 0;
    return .{ .first = x.first, .last = y.last, .count = x.count + y.count + seam };
}

pub fn main() void {
    var a = Word{ .first = 'a', .last = 'a', .count = 0 };
    var b = Word{ .first = 'b', .last = 'b', .count = 0 };
    var c = Word{ .first = 'c', .last = 'c', .count = 0 };
    for (0..40) |_| {
        const new_a = join(a, b);
        const new_b = join(c, a);
        c = b;
        a = new_a;
        b = new_b;
    }
    print(a.count);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
